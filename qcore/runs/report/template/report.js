"use strict";
// Figures name theme colours as "--accent"; they are looked up here so that light and dark both work.
(() => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const themed = (value) => {
    if (Array.isArray(value)) return value.map(themed);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, themed(item)]));
    }
    return typeof value === "string" && value.startsWith("--") ? colour(value) : value;
  };
  const axis = (own) => ({
    gridcolor: colour("--rule"), linecolor: colour("--rule"), zeroline: false, automargin: true,
    tickfont: { color: colour("--soft") }, ...own,
    title: { standoff: 12, font: { color: colour("--soft"), size: 13 }, ...(own && own.title) },
  });
  const layout = (own) => {
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 56, r: 16, t: 16, b: 48 },
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--ink") },
      hoverlabel: { bgcolor: colour("--raised"), bordercolor: colour("--rule"), font: { color: colour("--ink") } },
      ...own,
      legend: {
        font: { size: 12.5, color: colour("--ink") }, bgcolor: "rgba(0,0,0,0)",
        ...(own && own.yaxis2 ? { orientation: "h", y: 1.12 } : {}), ...(own && own.legend),
      },
    };
    Object.keys(base).filter((key) => /^[xy]axis\d*$/.test(key)).forEach((key) => { base[key] = axis(base[key]); });
    return base;
  };
  const draw = () => document.querySelectorAll("figure").forEach((box) => {
    const plot = box.querySelector(".plot");
    const source = box.querySelector('script[type="application/json"]');
    if (!plot || !source || !window.Plotly) return;
    const spec = themed(JSON.parse(source.textContent));
    plot.hidden = false;
    box.querySelector(".static").hidden = true;
    window.Plotly.react(plot, spec.data, layout(spec.layout), { responsive: true, displaylogo: false, displayModeBar: false });
  });
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
