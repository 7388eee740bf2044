addEventListener("load", () => {
  const all = selector => document.querySelectorAll(selector);
  // what scrolls sideways can be reached by keyboard
  for (const element of all("pre, div.math, .table-wrapper")) {
    if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
  }
  // names for screen readers that Sphinx, furo and MyST-NB leave out, or give where the text says more
  for (const caption of all(".caption[role=heading]")) caption.ariaLevel = 2;
  for (const summary of all("summary[aria-label]")) summary.removeAttribute("aria-label");
  for (const drawer of all("aside.sidebar-drawer")) drawer.ariaLabel = "Pages";
  for (const drawer of all("aside.toc-drawer")) drawer.ariaLabel = "On this page";
});
