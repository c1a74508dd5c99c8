"""The look of the shop and the frame of its pages.

Owns the style sheet, the document around a page, and the content security policy that lets the
browser run and load nothing but that style. Knows nothing about what is on the pages.
"""

from __future__ import annotations

import base64
import hashlib

from eeflib.analysis.markup import escape

__all__ = ["POLICY", "document"]

_STYLE = """
:root{color-scheme:light dark;--paper:#f6f5f1;--card:#fff;--ink:#1d2125;--soft:#5a626c;
 --rule:#dcd9d1;--edge:#85898c;--accent:#00558c;--on:#fff;--tint:#e4eef5;--good:#00704f;
 --bad:#a83c00;--mark:#fff3d6}
@media (prefers-color-scheme:dark){:root{--paper:#14171b;--card:#1c2126;--ink:#e8eaed;
 --soft:#a3acb7;--rule:#30373f;--edge:#7b848e;--accent:#84c1ee;--on:#0d1217;--tint:#1f3242;--good:#56c9a2;
 --bad:#ff9d66;--mark:#3a3320}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-padding-top:9rem}
body{margin:0;background:var(--paper);color:var(--ink);overflow-wrap:break-word;
 font:17px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.wide{max-width:1060px;margin:0 auto;padding-left:24px;padding-right:24px}
a{color:var(--accent);text-underline-offset:3px}
h1,h2,h3,.serif{font-family:ui-serif,Georgia,"Times New Roman",serif;font-weight:600;
 line-height:1.22;letter-spacing:-.005em;margin:0;
 overflow-wrap:anywhere}
h1{font-size:2rem}h2{font-size:1.35rem}
p{margin:.6em 0}h1+.text{margin-top:14px}
.soft{color:var(--soft)}.small{font-size:.86rem}
.skip{position:absolute;left:-999px}.skip:focus{left:12px;top:12px;z-index:9;background:var(--card);
 padding:.5em 1em}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px;border-radius:6px}
header.top{border-bottom:1px solid var(--rule);background:var(--card)}
header.top>div{display:flex;flex-wrap:wrap;align-items:center;gap:.3em 1.6em;min-height:56px;
 padding-top:8px;padding-bottom:8px}
header.top p{margin:0;font-size:.92rem;color:var(--soft);font-variant-numeric:tabular-nums}
header.top b{color:var(--ink);font-weight:650}
.brand{font:650 1.25rem ui-serif,Georgia,serif;color:var(--ink);text-decoration:none;
 margin-right:auto}
.tag{display:inline-block;border:1px solid var(--rule);border-radius:99px;padding:0 .7em;
 margin-left:.5em;font-size:.82rem;line-height:1.7;color:var(--soft)}
progress{appearance:none;width:110px;height:6px;border:0;border-radius:3px;background:var(--rule);
 vertical-align:middle;margin-left:.6em;overflow:hidden}
progress::-webkit-progress-bar{background:var(--rule)}
progress::-webkit-progress-value{background:var(--accent)}
progress::-moz-progress-bar{background:var(--accent)}
.goal{background:var(--mark);border-bottom:1px solid var(--rule)}
.goal p{margin:0;padding:14px 0 16px;font-size:1.16rem;line-height:1.4;max-width:60em}
.goal small{display:block;font:650 .74rem/1.6 system-ui,sans-serif;letter-spacing:.07em;
 text-transform:uppercase;color:var(--soft)}
@media (min-height:600px){.goal{position:sticky;top:0;z-index:2}}
main{padding-top:28px;padding-bottom:40px;min-height:52vh}
main:focus{outline:0}
.notice{border-left:4px solid var(--accent);background:var(--tint);padding:.7em 1em;
 margin:0 0 1.6em;border-radius:0 6px 6px 0}
button,.button{font:inherit;font-weight:550;color:var(--ink);background:var(--card);
 border:1px solid var(--edge);border-radius:8px;padding:.42em 1em;min-height:44px;cursor:pointer;
 text-decoration:none;display:inline-block;text-align:left}
button:hover,.button:hover{border-color:var(--accent);color:var(--accent)}
button.main,.button.main{background:var(--accent);border-color:var(--accent);color:var(--on);
 font-weight:650;padding-left:1.5em;padding-right:1.5em}
button.main:hover,.button.main:hover{filter:brightness(1.12);color:var(--on)}
button.quiet{border-color:transparent;background:none;color:var(--soft);padding-left:0;
 font-weight:400;text-decoration:underline;text-underline-offset:3px}
.bar{display:flex;flex-wrap:wrap;gap:10px;align-items:center;margin:0 0 22px}
.bar .push{margin-left:auto}
.search{display:flex;gap:10px;max-width:720px;margin:1.4em 0 1em}
.search input{flex:1;min-width:0;font:inherit;font-size:1.1rem;color:var(--ink);
 background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:.55em .9em;
 min-height:52px}
ul.cards{list-style:none;margin:0;padding:0;display:grid;gap:16px;
 grid-template-columns:repeat(auto-fill,minmax(min(300px,100%),1fr))}
.card{position:relative;background:var(--card);border:1px solid var(--rule);border-radius:12px;
 padding:18px 20px 16px;display:flex;flex-direction:column;gap:10px;min-height:158px}
.card:hover{border-color:var(--accent);box-shadow:0 2px 14px #0000000f}
.card h2{font-size:1.16rem;line-height:1.3;flex:1}
.card h2 button{all:unset;cursor:pointer;display:block}
.card h2 button::after{content:"";position:absolute;inset:0;border-radius:12px}
.card:hover h2 button{color:var(--accent)}
.card h2 button:focus-visible::after{outline:3px solid var(--accent);outline-offset:2px}
.card p{margin:0;display:flex;flex-wrap:wrap;gap:0 .8em;align-items:baseline;
 justify-content:space-between}
.price{font-size:1.12rem;font-weight:650;font-variant-numeric:tabular-nums}
.asin{font:.8rem ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;color:var(--soft);
 letter-spacing:.02em}
.item{display:grid;grid-template-columns:minmax(0,1.25fr) minmax(0,1fr);gap:28px 44px;
 align-items:start}
.item .price{font-size:1.5rem;margin:.5em 0 0}
.panel{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:22px 24px}
.panel>:first-child{margin-top:0}
fieldset{border:0;margin:0 0 1.3em;padding:0;min-width:0}
legend{padding:0;margin-bottom:.45em;font-weight:650}
.pills{display:flex;flex-wrap:wrap;gap:8px}
.pills button[aria-pressed=true]{background:var(--tint);border-color:var(--accent);
 box-shadow:inset 0 0 0 1px var(--accent);font-weight:650}
.pills button[aria-pressed]::before{content:"";display:inline-block;width:.62em;height:.62em;
 margin-right:.55em;border:1.5px solid var(--edge);border-radius:50%}
.pills button[aria-pressed=true]::before{background:var(--accent);border-color:var(--accent)}
.off{opacity:.6;border:1px dashed var(--edge);border-radius:8px;padding:.42em 1em}
.about{margin:26px 0 0;border-top:1px solid var(--rule);padding-top:18px}
.about h2{font:650 .95rem system-ui,sans-serif;margin-bottom:.7em}
.text{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:22px 26px;
 max-width:46em}
.text{overflow-wrap:anywhere}.text ul{margin:0;padding-left:1.2em}.text p{margin:0}
.text li{margin:.35em 0}.text+form{margin-top:24px}.pills button{overflow-wrap:anywhere}
.score{display:flex;flex-wrap:wrap;align-items:baseline;gap:.1em .6em;margin:0 0 .3em}
.score b{font:600 3.6rem/1.1 ui-serif,Georgia,serif;font-variant-numeric:tabular-nums}
.score.good b,.score.good h1,.yes{color:var(--good)}
.score.bad h1,.no{color:var(--bad)}
.yes,.no{font-weight:650;white-space:nowrap}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;margin:.8em 0;font-size:.96rem}
th{text-align:left;font-weight:600;font-size:.84rem;color:var(--soft)}
th,td{padding:.55em 1em .55em 0;border-bottom:1px solid var(--rule);vertical-align:top}
td.act{padding-right:0;text-align:right;white-space:nowrap}td small{display:block}
td.n{font-variant-numeric:tabular-nums;white-space:nowrap}
.sum{font-variant-numeric:tabular-nums}
details{border-top:1px solid var(--rule);padding-top:12px;margin-top:34px}
details+details{margin-top:12px}
summary{cursor:pointer;color:var(--soft);padding:.3em 0}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--card);padding:1em;
 border:1px solid var(--rule);border-radius:8px;margin:.6em 0;
 font:13.5px/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
footer{border-top:1px solid var(--rule);color:var(--soft);font-size:.88rem}
footer:has(div:empty){border:0}
footer>div{display:flex;flex-wrap:wrap;gap:0 1.6em;align-items:center;padding-top:8px;
 padding-bottom:28px}
@media (max-width:720px){body{font-size:16px}.wide{padding-left:16px;
 padding-right:16px}h1{font-size:1.55rem}
 .item{grid-template-columns:minmax(0,1fr)}.goal p{font-size:1.02rem;padding:9px 0 11px}
 main{padding-top:20px}th,td{padding-right:.7em}.card{min-height:0;padding:15px 16px}
 .search{flex-wrap:wrap}.search button{flex:1}.brand{margin-right:0;width:100%}
 table.tasks td:nth-child(2){display:none}
 table.tasks th:nth-child(2){display:none}}
@media (prefers-reduced-motion:no-preference){button,.card{transition:border-color .12s,color .12s}}
"""

_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""Value of the Content-Security-Policy header of every page."""

_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Crect width='16' height='16' rx='4' fill='%2300558c'/%3E"
    "%3Cpath d='M5 6.5a3 3 0 0 1 6 0M3.5 6.5h9l-1 6h-7z' fill='none' stroke='white' "
    "stroke-width='1.3'/%3E%3C/svg%3E"
)


def document(title: str, body: str, *, header: str = "", goal: str = "", footer: str = "") -> str:
    """A whole page.

    Args:
        title: plain text.
        body: ready HTML, as are the others.
        header: what stands beside the shop's name.
        goal: the band that stays in view.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><link rel="icon" href="{_ICON}">'
        f"<title>{escape(title, 120)}</title><style>{_STYLE}</style></head><body>"
        '<a class="skip" href="#main">Skip to the page</a>'
        '<header class="top"><div class="wide"><a class="brand" href="/">WebShop</a>'
        f"{header}</div></header>{goal}"
        f'<main id="main" class="wide" tabindex="-1">{body}</main>'
        f'<footer><div class="wide">{footer}</div></footer></body></html>\n'
    )
