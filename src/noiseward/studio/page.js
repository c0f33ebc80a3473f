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
}
