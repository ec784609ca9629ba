"use strict";
// Asks for what has changed, while the page is looked at, and puts it in its place; all words come from the server.
(() => {
  let seen = document.getElementById("silent").dataset.seen, failures = 0, timer = 0, asking = false;
  async function look() {
    clearTimeout(timer);
    if (asking || document.visibilityState !== "visible") return;
    asking = true;
    let wait = 2;
    try {
      const answer = await fetch("state.json?seen=" + seen, {cache: "no-store"});
      if (!answer.ok) throw new Error(String(answer.status));
      const told = await answer.json();
      for (const [name, html] of Object.entries(told.parts)) document.getElementById(name).innerHTML = html;
      [seen, wait, failures] = [told.seen, told.again, 0];
      document.title = told.title;
    } catch {
      failures += 1;
    }
    asking = false;
    document.getElementById("silent").hidden = failures < 3;
    if (failures < 5) timer = setTimeout(look, 1000 * wait);
  }
  document.addEventListener("visibilitychange", look);
  look();
})();
