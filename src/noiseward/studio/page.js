() => {
  // Keys: Ctrl+Enter starts or goes on; 1 to 9 like an image, n shows the next look, u undoes, where no field is focused.
  const shown = (id) => { const one = document.getElementById(id); return one && one.offsetParent ? one : null; };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey && event.key === "Enter") (shown("start-run") || shown("next-look") || shown("begin-looks"))?.click();
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input,textarea,[contenteditable],[role=listbox]")) return;
    const tiles = shown("tiles");
    if (!tiles) return;
    if (/^[1-9]$/.test(event.key)) tiles.querySelectorAll(".nw-tile")[event.key - 1]?.click();
    if (event.key === "n") shown("next-look")?.click();
    if (event.key === "u") shown("undo-look")?.click();
  });

  // What a button made is brought into view, unless it is seen already or an error is to be read instead.
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  window.noiseward = {show: (id, said) => setTimeout(() => {
    const one = document.getElementById(id);
    if (!one || document.querySelector(`#${said} .nw-error`)) return;
    const {top} = one.getBoundingClientRect();
    if (top < 0 || top > innerHeight - 160) one.scrollIntoView({block: "start", behavior: calm ? "auto" : "smooth"});
  }, 150)};

  // Back and Forward: each tab is an entry of the history, by its name after the #.
  const tabs = () => [...document.querySelectorAll("[role=tablist]")[0]?.querySelectorAll("[role=tab]") || []];
  const named = (tab) => tab.textContent.trim().toLowerCase().replace(/\s+/g, "-");
  const current = () => tabs().find((tab) => tab.getAttribute("aria-selected") === "true");
  const open = () => {
    const asked = location.hash.slice(1) || "create", tab = tabs().find((one) => named(one) === asked);
    if (tab && tab !== current()) tab.click();
  };
  const note = () => {
    const tab = current();
    if (tab && named(tab) !== (location.hash.slice(1) || "create")) history.pushState(null, "", `#${named(tab)}`);
  };
  const begin = () => {
    if (!tabs().length) return setTimeout(begin, 100);
    open();
    addEventListener("popstate", open);
    new MutationObserver(note).observe(tabs()[0].closest("[role=tablist]"), {subtree: true, attributeFilter: ["aria-selected"]});
  };
  begin();
}
