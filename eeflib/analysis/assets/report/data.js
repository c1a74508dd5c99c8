// The data of the page: unpacked, with every text by its number.
const SEPARATORS = [" [SEP] ", "\n"];

async function readData() {
  let data = JSON.parse(document.getElementById("data").textContent);
  if (data.gzip) {
    const bytes = Uint8Array.from(atob(data.gzip), (c) => c.charCodeAt(0));
    const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    data = JSON.parse(await new Response(plain).text());
  }
  const whole = new Map();
  const text = (number) => {
    const row = data.texts[number || 0];
    if (typeof row === "string") return row;
    if (!whole.has(number)) {
      whole.set(number, row.slice(1).map((n) => data.texts[n]).join(SEPARATORS[row[0]]));
    }
    return whole.get(number);
  };
  const step = (row) => ({
    saw: row[0] || 0, action: row[1] || 0, actor: text(row[2]), kind: text(row[3]),
    thought: row[4] || 0, reply: row[5] || 0, valid: row[6] == null, reason: text(row[6]),
    score: row[7],
  });
  data.text = text;
  data.items.forEach((item, i) => {
    item.number = i;
    item.steps = item.steps.map(step);
    item.invalid = item.steps.filter((s) => !s.valid).length;
    item.tries = data.tries[i] || {};
    for (const group of Object.values(item.tries)) {
      for (const t of group) if (t.steps) t.steps = t.steps.map(step);
    }
  });
  data.samples.forEach((s, i) => { s.number = i; s.steps = s.steps.map(step); });
  return data;
}

// Which texts match: [test(number) -> bool, message]. A text is looked at once, wherever it occurs.
function matcher(data, query) {
  if (!query.text) return [null, ""];
  let hit;
  if (query.regex) {
    let pattern;
    try {
      pattern = new RegExp(query.text, "im");
    } catch (error) {
      return [null, `not a regular expression: ${error.message.split(": ").pop()}`];
    }
    hit = (t) => pattern.test(t);
  } else {
    const needle = query.text.toLowerCase();
    hit = (t) => t.toLowerCase().includes(needle);
  }
  const known = new Map();
  const end = performance.now() + 2000;
  return [(number) => {
    if (!known.has(number)) {
      if (performance.now() > end) throw new Error("slow");
      known.set(number, hit(data.text(number)));
    }
    return known.get(number);
  }, ""];
}

// A pattern that marks what is looked for in a text, or null.
function marker(query) {
  if (!query.text) return null;
  try {
    const source = query.regex ? query.text : query.text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    return new RegExp(source, "gim");
  } catch {
    return null;
  }
}
