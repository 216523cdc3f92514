/* Reading the charts: the window under the pointer is marked in every chart, and the headings show its values. */
(() => {
  const LEFT = 38, INNER = 314, VIEW = 360; // the frame of chart.py, in units of its view box
  const compact = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size >= 9999.5) return (value / 1000).toFixed(0) + "k";
    if (size >= 999.5) return Number((value / 1000).toFixed(1)) + "k";
    if (size >= 99.5 || Number.isInteger(value)) return value.toFixed(0);
    return value.toFixed(size >= 9.95 ? 1 : 2);
  };
  const plots = () => document.querySelectorAll(".ls-plot");

  const look = (window, windows) => {
    for (const plot of plots()) {
      const values = JSON.parse(plot.dataset.values);
      plot.querySelectorAll(".ls-key b").forEach((cell, i) => { cell.textContent = compact(values[i]?.[window]); });
      const cursor = plot.querySelector(".ls-cursor");
      const x = LEFT + INNER * (window + 0.5) / windows;
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      cursor.classList.add("on");
    }
    document.querySelectorAll(".ls-looked").forEach((cell) => { cell.textContent = `window ${window + 1}`; });
  };

  const rest = () => {
    for (const plot of plots()) {
      plot.querySelectorAll(".ls-key b").forEach((cell) => { cell.textContent = cell.dataset.last; });
      plot.querySelector(".ls-cursor").classList.remove("on");
    }
    document.querySelectorAll(".ls-looked").forEach((cell) => { cell.textContent = ""; });
  };

  document.addEventListener("pointermove", (event) => {
    const svg = event.target instanceof Element && event.target.closest(".ls-plot svg");
    if (!svg) return;
    const windows = Number(svg.parentElement.dataset.windows);
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width * VIEW - LEFT) / INNER;
    look(Math.min(Math.max(Math.floor(at * windows), 0), windows - 1), windows);
  }, { passive: true });
  document.addEventListener("pointerout", (event) => {
    const from = event.target instanceof Element && event.target.closest(".ls-plot svg");
    const to = event.relatedTarget instanceof Element && event.relatedTarget.closest(".ls-plot svg");
    if (from && !to) rest();
  }, { passive: true });
})();
