// Ids that begin as typed are suggested; every page works without this.
"use strict";
for (const input of document.querySelectorAll("input[data-suggest]")) {
  const list = document.getElementById(input.getAttribute("list"));
  let asked = "", timer = 0;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    const typed = input.value.trim();
    if (!typed || typed === asked) return;
    timer = setTimeout(async () => {
      asked = typed;
      const answer = await fetch(input.dataset.suggest + "?q=" + encodeURIComponent(typed));
      if (!answer.ok || typed !== input.value.trim()) return;
      const ids = await answer.json();
      list.replaceChildren(...ids.map((id) => {
        const option = document.createElement("option");
        option.value = id;
        return option;
      }));
    }, 150);
  });
}
