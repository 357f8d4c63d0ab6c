"use strict";
// Keys, the slider, and typing that searches by itself. Everything else is plain HTML and htmx.
const texts = () => [...document.querySelectorAll(".text")];

function move(step) {
  const all = texts();
  if (!all.length) return;
  const at = all.findIndex(one => one.contains(document.activeElement));
  const next = at < 0 ? (step > 0 ? 0 : all.length - 1) : at + step;
  if (next >= 0 && next < all.length) all[next].focus();
  else document.querySelector(step > 0 ? ".pager [rel=next]" : ".pager [rel=prev]")?.focus();
}

function press(kind) {
  document.activeElement?.closest(".text")?.querySelector(".marks ." + kind)?.click();
}

const keys = {
  j: () => move(1), k: () => move(-1), y: () => press("right"), n: () => press("wrong"),
  "/": () => document.querySelector("input[name=find]")?.focus(),
  Enter: () => document.activeElement?.matches(".text") && document.activeElement.closest("article")?.querySelector("a")?.click(),
};

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  if (event.key === "Enter" && !event.target.matches(".text")) return;
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});

// The focus stays on the text whose mark was just replaced.
document.addEventListener("htmx:beforeSwap", event => {
  const text = event.detail.target.closest?.(".text");
  if (text && text.contains(document.activeElement)) text.focus();
});

const form = document.getElementById("filters");
if (form) {
  let waiting = 0;
  form.addEventListener("input", event => {
    const field = event.target;
    if (field.dataset.sets) form.elements[field.dataset.sets].value = field.value;
    clearTimeout(waiting);
    const typed = field.matches("[type=search], [type=number], [type=range]");
    if (typed) waiting = setTimeout(() => form.dispatchEvent(new Event("typed")), field.name === "find" ? 500 : 200);
  });
  // What is typed asks by itself; its `change` would only ask again.
  form.addEventListener("change", event => {
    if (event.target.matches("[type=search], [type=number], [type=range]")) event.stopImmediatePropagation();
  }, true);
  // Where all is in one column, the images come first.
  if (matchMedia("(max-width: 900px)").matches) form.querySelectorAll("details.more:not([data-used])").forEach(one => one.open = false);
}
