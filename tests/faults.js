// What a careful reader of a page would find: contrast, names, headings, tables, width.
(() => {
  const faults = [];
  const seen = (e) => e.checkVisibility() && e.getClientRects().length > 0;
  const parsed = (c) => (c.match(/[\d.]+/g) || []).map(Number);
  const under = (e) => {  // the ground that an element stands on
    for (; e; e = e.parentElement) {
      const c = parsed(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c.slice(0, 3);
      if (c[3] > 0) faults.push("half seen ground: " + e.outerHTML.slice(0, 80));
    }
    return parsed(getComputedStyle(document.documentElement).colorScheme.includes("dark")
      ? "0 0 0" : "255 255 255");
  };
  const light = (c) => {
    const [r, g, b] = c.map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  let texts = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !seen(e) || e.closest("script, datalist, title")) continue;
    texts += 1;
    const style = getComputedStyle(e);
    const ink = parsed(e.closest("svg") ? style.fill : style.color).slice(0, 3);
    const found = contrast(ink, under(e));
    if (found < 4.5) faults.push(`contrast ${found.toFixed(2)}: ${walk.currentNode.data.slice(0, 40)}`);
  }
  for (const e of document.querySelectorAll("input, select, textarea")) {
    if (e.type === "hidden") continue;
    const named = e.labels && [...e.labels].some((l) => l.textContent.trim());
    if (!named && !e.getAttribute("aria-label")) faults.push("no label: " + e.outerHTML);
  }
  for (const e of document.querySelectorAll("button, a, summary")) {
    if (!e.textContent.trim() && !e.getAttribute("aria-label")) faults.push("no name: " + e.outerHTML);
  }
  const heads = [...document.querySelectorAll("h1, h2, h3, h4")].map((e) => +e.tagName[1]);
  if (heads.filter((h) => h === 1).length !== 1) faults.push("h1: " + heads);
  heads.forEach((h, i) => { if (i && h > heads[i - 1] + 1) faults.push("headings: " + heads); });
  for (const e of document.querySelectorAll("table")) {
    if (!e.caption || !e.caption.textContent.trim()) faults.push("no caption");
    for (const h of e.querySelectorAll("th")) if (!h.scope) faults.push("no scope: " + h.outerHTML);
  }
  for (const e of document.querySelectorAll("svg, img")) {
    const told = e.getAttribute("aria-hidden") === "true" || e.getAttribute("aria-label")
      || e.getAttribute("aria-labelledby") || e.getAttribute("alt");
    if (!told) faults.push("untold picture: " + e.outerHTML.slice(0, 80));
  }
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  if (new Set(ids).size !== ids.length) faults.push("ids twice: " + ids);
  if (document.querySelectorAll("main").length !== 1) faults.push("main");
  if (!document.documentElement.lang) faults.push("lang");
  if (document.documentElement.scrollWidth > document.documentElement.clientWidth)
    faults.push("wider than the window: " + document.documentElement.scrollWidth);
  const small = [...document.querySelectorAll("button, select, input:not([type=hidden])")]
    .filter((e) => seen(e) && e.getBoundingClientRect().height < 16);
  if (small.length) faults.push("too small to touch: " + small[0].outerHTML);
  return {faults, texts};
})()
