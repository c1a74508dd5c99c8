// Draws the figures of a page when they come into view. plotly.js lies compressed in the page; as a
// script element of its own it runs because the page's policy knows its hash.
(() => {
  const { twins, config } = JSON.parse(document.getElementById("look").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let loading = null;

  async function unpack(id) {
    const text = atob(document.getElementById(id).textContent);
    const bytes = new Uint8Array(text.length); // Uint8Array.from takes a second for as much
    for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  async function load() {
    const code = document.createElement("script");
    code.textContent = await unpack("plotly");
    document.head.append(code);
  }

  // As style.dark does: a colour of the palette becomes its twin; #rrggbb may be followed by opacity.
  function swap(value, colour) {
    if (Array.isArray(value)) return value.map((x) => swap(x, colour));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, x]) => [k, swap(x, k.includes("color"))]));
    }
    if (!colour || typeof value !== "string") return value;
    const known = value.slice(0, 7);
    return (twins[known] || known) + value.slice(7);
  }

  async function draw(place) {
    await (loading ||= load());
    const figure = JSON.parse(place.querySelector("script.figure").textContent);
    const { data, layout } = dark.matches ? swap(figure, false) : figure;
    let target = place.querySelector("div");
    if (!target) place.append(target = document.createElement("div"));
    await Plotly.react(target, data, { ...layout, autosize: true }, config);
    place.dataset.drawn = dark.matches ? "dark" : "light";
  }

  const places = [...document.querySelectorAll(".plot")];
  const watch = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) {
      if (!isIntersecting) continue;
      watch.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "300px" });
  let begun = false;
  function begin() {
    if (begun) return;
    begun = true;
    for (const place of places) watch.observe(place);
  }
  // The reader's first key or click comes before the figures.
  const browsing = document.getElementById("data");
  if (browsing) document.addEventListener("viewer", () => setTimeout(begin, 100));
  addEventListener("load", () => setTimeout(begin, browsing ? 2000 : 0));
  dark.addEventListener("change", () => {
    for (const place of places) if (place.dataset.drawn) draw(place);
  });
})();
