// Sorts the table and draws the charts of a report. All that comes from jobs is put in place as text.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const columns = data.columns;
  const find = (kind, name) => columns.find((c) => c.kind === kind && (name === undefined || c.name === name));
  const of = (kind) => columns.filter((c) => c.kind === kind);
  const jobs = find("job").values;
  const states = find("state").values;
  const count = jobs.length;
  const isNumber = (value) => typeof value === "number";
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // plotly reads a few tags in its labels; of jobs' words none is one.
  const plain = (value, longest = 60) => {
    const text = String(value);
    const shown = text.length > longest ? text.slice(0, longest - 1) + "\u2026" : text;
    return shown.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  };
  const seconds = (value) => {
    if (value < 60) return value.toFixed(1) + " s";
    const whole = Math.round(value), minutes = Math.floor(whole / 60);
    if (minutes < 60) return minutes + " min " + (whole % 60) + " s";
    return Math.floor(minutes / 60) + " h " + (minutes % 60) + " min";
  };
  const number = (value) => (Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(5))));

  // ---- the table -------------------------------------------------------------------------------
  const table = document.getElementById("jobs");
  const body = table.tBodies[0];
  const note = document.getElementById("shown");
  const more = document.getElementById("more");
  const filter = document.getElementById("filter");
  const PAGE = 25;
  let order = Array.from(jobs.keys());
  let limit = PAGE;
  let sorted = null;
  let down = false;

  const rank = (value) => (value === null ? 2 : isNumber(value) ? 0 : 1);
  const compare = (a, b) =>
    rank(a) - rank(b) || (isNumber(a) ? a - b : String(a) < String(b) ? -1 : String(a) > String(b) ? 1 : 0);
  const cell = (column, row) => {
    const value = column.values[row];
    if (value === null) return "";
    if (column.kind === "time") return seconds(value);
    return isNumber(value) && column.kind !== "job" ? number(value) : String(value);
  };
  const sort = (column) => {
    // The best of a metric is what is looked for first.
    down = sorted === column ? !down : column.kind === "metric" && !(data.smaller && column.name === data.metric);
    sorted = column;
    const values = column.values;
    order = Array.from(jobs.keys()).sort((a, b) => {
      const x = values[a], y = values[b];
      if (x === null || y === null) return rank(x) - rank(y) || a - b; // what is missing comes last
      return (down ? compare(y, x) : compare(x, y)) || a - b;
    });
    limit = PAGE;
    fill();
  };
  const heads = columns.map((column) => {
    const head = document.createElement("th");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = column.name;
    button.addEventListener("click", () => sort(column));
    head.append(button);
    if (column.values.some(isNumber)) head.className = "number";
    if (column.kind === "parameter" || column.kind === "metric") {
      const kind = document.createElement("span");
      kind.className = "kind";
      kind.textContent = column.kind;
      head.prepend(kind);
    }
    return head;
  });
  const row = document.createElement("tr");
  row.append(...heads);
  table.tHead.append(row);

  const fill = () => {
    heads.forEach((head, index) =>
      head.setAttribute("aria-sort", columns[index] !== sorted ? "none" : down ? "descending" : "ascending"));
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = words.length
      ? order.filter((index) => {
          const text = columns.map((column) => cell(column, index)).join("\n").toLowerCase();
          return words.every((word) => text.includes(word));
        })
      : order;
    const rows = matches.slice(0, limit).map((index) => {
      const line = document.createElement("tr");
      for (const column of columns) {
        const data = document.createElement("td");
        data.textContent = cell(column, index);
        if (isNumber(column.values[index])) data.className = "number";
        if (column.kind === "state") data.className = /^[A-Z]+$/.test(data.textContent) ? data.textContent : "";
        data.title = data.textContent;
        line.append(data);
      }
      return line;
    });
    body.replaceChildren(...rows);
    note.textContent = words.length || rows.length < count
      ? `${rows.length} of ${matches.length}${words.length ? " that match" : ""} are shown` : "";
    more.hidden = rows.length >= matches.length;
  };
  more.addEventListener("click", () => { limit *= 4; fill(); });
  filter.addEventListener("input", () => { limit = PAGE; fill(); });
  fill();

  // ---- the charts ------------------------------------------------------------------------------
  const CONFIG = {
    displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d"],
    // Nothing of a report is sent anywhere.
    showSendToCloud: false, plotlyServerURL: "",
  };
  const FONT = { family: "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", size: 12 };
  const modebar = () => ({ bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: css("--text") });
  // Very many points are drawn by WebGL, where there is any.
  const hasWebGL = () => {
    try {
      return Boolean(document.createElement("canvas").getContext("webgl"));
    } catch (error) {
      return false;
    }
  };
  const median = (values) => {
    const ordered = values.slice().sort((a, b) => a - b), half = ordered.length >> 1;
    return ordered.length % 2 ? ordered[half] : (ordered[half - 1] + ordered[half]) / 2;
  };
  // Whether values lie over orders of magnitude, and not just some of many near zero.
  const isLog = (values, ratio) => {
    const least = values.reduce((a, b) => Math.min(a, b), Infinity);
    const most = values.reduce((a, b) => Math.max(a, b), -Infinity);
    return least > 0 && most / least >= ratio && median(values) / most < 0.2;
  };
  // Points of one value beside one another, always in the same places.
  const spread = (job) => (((job * 2654435761) % 1000) / 1000 - 0.5) * 0.3;

  const axis = (column, rows) => {
    const given = rows.map((index) => column.values[index]);
    const known = given.filter((value) => value !== null);
    const distinct = Array.from(new Set(known)).sort(compare);
    if (known.length === given.length && distinct.every(isNumber) && distinct.length > 1) {
      const log = isLog(distinct, 50);
      const few = distinct.length <= 7;
      return {
        x: given, places: distinct.length <= 24 ? distinct : null, at: (value) => value,
        layout: {
          type: log ? "log" : "linear",
          ...(few ? { tickvals: distinct, ticktext: distinct.map(number) } : log ? { dtick: 1, tickformat: "~g" } : {}),
        },
      };
    }
    if (known.length < given.length) distinct.push(null);
    const at = new Map(distinct.map((value, index) => [value, index]));
    const shown = distinct.length <= 16;
    return {
      x: given.map((value, index) => at.get(value) + (distinct.length > 200 ? 0 : spread(jobs[rows[index]]))),
      places: distinct.length <= 24 ? distinct : null, at: (value) => at.get(value),
      layout: {
        type: "linear", range: [-0.6, distinct.length - 0.4],
        tickvals: shown ? distinct.map((_, index) => index) : [],
        ticktext: shown ? distinct.map((value) => plain(value === null ? "\u2013" : value, 14)) : [],
      },
    };
  };

  const against = document.getElementById("against");
  const drawAgainst = () => {
    if (!against) return;
    const name = document.getElementById("metric").value;
    const metric = find("metric", name);
    const rows = Array.from(jobs.keys()).filter((index) => isNumber(metric.values[index]));
    const parameters = of("parameter");
    const width = against.clientWidth;
    const across = Math.min(parameters.length, width < 560 ? 1 : width < 900 ? 2 : 3);
    const down = Math.ceil(parameters.length / across);
    const type = data.webgl && hasWebGL() ? "scattergl" : "scatter";
    const y = rows.map((index) => metric.values[index]);
    const best = rows.reduce((found, index) => {
      if (states[index] !== "SUCCEEDED") return found;
      const better = found < 0 || (data.smaller && name === data.metric
        ? metric.values[index] < metric.values[found] : metric.values[index] > metric.values[found]);
      return better ? index : found;
    }, -1);
    const told = rows.map((index) => `job ${jobs[index]}, ${states[index]}<br>` + plain(name) + " = " +
      number(metric.values[index]) + parameters.slice(0, 12).map((each) =>
        "<br>" + plain(each.name, 30) + " = " + plain(each.values[index] === null ? "\u2013" : each.values[index], 40)).join(""));
    const [good, bad, open] = ["--accent", "--bad", "--open"].map(css);
    const colours = rows.map((row) => (states[row] === "SUCCEEDED" ? good : states[row] === "FAILED" ? bad : open));
    const symbols = rows.map((row) => (states[row] === "SUCCEEDED" ? "circle" : "circle-open"));
    const layout = {
      height: 290 * down + 30, margin: { l: 60, r: 12, t: 12, b: 50 }, font: FONT, showlegend: false,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", modebar: modebar(),
      grid: { rows: down, columns: across, pattern: "independent", xgap: 0.16, ygap: Math.min(0.28, 0.75 / down) },
    };
    const traces = [];
    parameters.forEach((parameter, index) => {
      const suffix = index ? index + 1 : "";
      const found = axis(parameter, rows);
      const logY = y.length && isLog(y, 1000);
      layout["xaxis" + suffix] = {
        ...found.layout, title: { text: plain(parameter.name, 40), standoff: 8 }, zeroline: false, automargin: false,
        exponentformat: "e",
      };
      layout["yaxis" + suffix] = {
        type: logY ? "log" : "linear", zeroline: false, automargin: false, exponentformat: "e",
        title: { text: index % across ? "" : plain(name, 30), standoff: 6 },
      };
      const axes = { xaxis: "x" + suffix, yaxis: "y" + suffix };
      traces.push({
        ...axes, type, mode: "markers", x: found.x, y, text: told, hovertemplate: "%{text}<extra></extra>",
        marker: {
          size: rows.length > 1000 ? 5 : 7, opacity: rows.length > 300 ? 0.45 : 0.7,
          color: colours, symbol: symbols,
        },
      });
      if (found.places && found.places.length > 1) {
        const of = new Map(found.places.map((value) => [value, []]));
        // What a run has reported before it failed is no result.
        rows.filter((row) => states[row] === "SUCCEEDED").forEach((row) => of.get(parameter.values[row]).push(metric.values[row]));
        traces.push({
          ...axes, type: "scatter", mode: "lines+markers", hoverinfo: "skip",
          x: found.places.map(found.at), y: found.places.map((value) => (of.get(value).length ? median(of.get(value)) : null)), connectgaps: true,
          line: { color: css("--soft"), width: 1.5 }, marker: { color: css("--soft"), size: 5, symbol: "line-ew", line: { width: 2, color: css("--soft") } },
        });
      }
      if (best >= 0) {
        const at = rows.indexOf(best);
        traces.push({
          ...axes, type: "scatter", mode: "markers", x: [found.x[at]], y: [y[at]], text: [told[at]],
          hovertemplate: "%{text}<extra></extra>",
          marker: { size: 15, symbol: "star", color: css("--star"), line: { width: 1, color: css("--ground") } },
        });
      }
    });
    Plotly.react(against, traces, layout, CONFIG);
  };

  const durations = document.getElementById("durations");
  const drawDurations = () => {
    if (!durations) return;
    const times = find("time").values;
    const most = times.reduce((found, value) => Math.max(found, value || 0), 0);
    const [unit, size] = most > 7200 ? ["hours", 3600] : most > 120 ? ["minutes", 60] : ["seconds", 1];
    const colours = { SUCCEEDED: "--good", FAILED: "--bad" };
    const kinds = Array.from(new Set(states)).sort().reverse();
    const bins = { start: 0, end: most / size * 1.0001, size: (most / size || 1) / 40 };
    const heights = Array(41).fill(0);
    times.forEach((value) => { if (value !== null) heights[Math.floor(value / size / bins.size)] += 1; });
    const traces = kinds.map((state) => ({
      type: "histogram", name: state, xbins: bins, autobinx: false,
      x: times.filter((value, index) => value !== null && states[index] === state).map((value) => value / size),
      marker: { color: css(colours[state] || "--open") },
      hovertemplate: "%{y} " + plain(state) + ", %{x} " + unit + "<extra></extra>",
    })).filter((trace) => trace.x.length);
    Plotly.react(durations, traces, {
      height: 250, margin: { l: 60, r: 12, t: 8, b: 46 }, font: FONT, barmode: "stack", bargap: 0.06, modebar: modebar(),
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      showlegend: traces.length > 1, legend: { orientation: "h", y: 1.12, x: 1, xanchor: "right" },
      xaxis: { title: { text: unit, standoff: 6 }, zeroline: false, rangemode: "tozero" },
      yaxis: { title: { text: "jobs" }, zeroline: false, rangemode: "tozero", tickformat: ",d", ...(Math.max(...heights) < 6 ? { dtick: 1 } : {}) },
    }, CONFIG);
  };

  const draw = () => { drawAgainst(); drawDurations(); };
  if (against) document.getElementById("metric").addEventListener("change", drawAgainst);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  let width = document.documentElement.clientWidth;
  addEventListener("resize", () => {
    if (Math.abs(document.documentElement.clientWidth - width) > 40) {
      width = document.documentElement.clientWidth;
      drawAgainst();
    }
  });
  draw();
})();
