// What scrolls sideways can be reached by keyboard.
addEventListener("load", () => {
  for (const element of document.querySelectorAll("pre, div.math, .table-wrapper")) {
    if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
  }
});
