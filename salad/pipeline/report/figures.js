"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const clear = "rgba(0,0,0,0)";

function template() {
  const css = getComputedStyle(document.documentElement);
  const [ink, line, paper] = ["--ink", "--line", "--paper"].map((name) => css.getPropertyValue(name).trim());
  const axis = { gridcolor: line, linecolor: line, zerolinecolor: line };
  const font = { color: ink, family: getComputedStyle(document.body).fontFamily };
  const hoverlabel = { bgcolor: paper, bordercolor: line, font };
  return { layout: { paper_bgcolor: clear, plot_bgcolor: clear, font, hoverlabel, xaxis: axis, yaxis: axis } };
}

function draw() {
  for (const [id, figure] of Object.entries(figures)) {
    const layout = { ...structuredClone(figure.layout), template: template() };
    Plotly.react(id, figure.data, layout, { responsive: true, displayModeBar: false });
  }
}

draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
