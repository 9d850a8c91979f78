// Plots: small ones without a scale for the tiles, and charts with scales for the pages.

const SVG = "http://www.w3.org/2000/svg";

function svg(label, seconds, height) {
  const node = document.createElementNS(SVG, "svg");
  for (const [name, value] of [["class", "plot"], ["role", "img"], ["aria-label", label],
    ["viewBox", `0 0 ${seconds} ${height}`], ["preserveAspectRatio", "none"]]) {
    node.setAttribute(name, value);
  }
  return node;
}

function path(node, className) {
  const drawn = document.createElementNS(SVG, "path");
  drawn.setAttribute("class", className);
  node.append(drawn);
  return drawn;
}

// Draws the line, and the area below it, of [time, value] samples. The x axis is time, so that a
// lost connection shows as a gap.
function trace(samples, { now, seconds, height, peak, gap }) {
  let [line, area, before] = ["", "", -Infinity];
  for (const [time, value] of samples) {
    const x = (seconds - (now - time)).toFixed(1);
    const y = (height - 1 - ((height - 2) * Math.min(value, peak)) / (peak || 1)).toFixed(1);
    const follows = time - before < gap;
    if (!follows && area) area += `V${height}Z`;
    line += `${follows ? "L" : "M"}${x} ${y}`;
    area += `${follows ? `H${x}V${y}` : `M${x} ${height}V${y}`}`;
    before = time;
  }
  return { line, area: area ? `${area}V${height}Z` : "" };
}

// Plot of the last two minutes, from zero up to the peak.
class Plot {
  constructor(label) {
    this.samples = [];
    this.node = svg(label, HISTORY_SECONDS, 20);
    [this.area, this.line] = ["area", "line"].map((name) => path(this.node, name));
  }

  add(time, value) {
    // If the clock was set back, samples from the future are removed.
    while (this.samples.at(-1)?.[0] >= time) this.samples.pop();
    this.samples.push([time, value]);
    while (this.samples[0][0] < time - HISTORY_SECONDS) this.samples.shift();
  }

  get peak() {
    return this.samples.reduce((peak, [, value]) => Math.max(peak, value), 0);
  }

  draw(peak) {
    const now = this.samples.at(-1)[0];
    // The history has a sample every 10 s.
    const shape = { now, seconds: HISTORY_SECONDS, height: 20, peak, gap: 10.5 };
    const { line, area } = trace(this.samples, shape);
    this.line.setAttribute("d", line);
    this.area.setAttribute("d", area);
  }
}

// Rounds up to 1, 2, 5, 10, 20 and so on, so that the scale stays the same while the peak moves a
// little.
function above(peak) {
  if (!(peak > 0)) return 1;
  const magnitude = 10 ** Math.floor(Math.log10(peak));
  const step = [1, 2, 5, 10].find((times) => peak <= times * magnitude * 1.0000001);
  return step * magnitude;
}

const CHART_SECONDS = [120, 600, 3600];
const CHART_HEIGHT = 60;

// Chart of several lines over the same time, with scales, and with the newest values beside their
// names.
class Chart {
  constructor(title, format, names) {
    this.format = format;
    this.samples = []; // [time, ...values]; an unknown value is null
    const caption = make("figcaption", {}, make("b", { textContent: title }));
    this.outputs = names.map((name, index) => {
      const output = make("output", { textContent: "–" });
      output.setAttribute("aria-live", "off");
      const entry = make("span", { className: `entry line-${index}` }, `${name} `, output);
      caption.append(entry);
      return output;
    });
    this.svg = svg(`${title} over time`, 1, CHART_HEIGHT);
    this.lines = names.map((_, index) => path(this.svg, `line line-${index}`));
    [this.top, this.from] = ["top", "from"].map((className) => make("span", { className }));
    const scale = make("span", { className: "zero", textContent: "0" });
    const now = make("span", { className: "now", textContent: "now" });
    this.node = make("figure", { className: "chart" }, caption,
      make("div", { className: "area" }, this.svg, this.top, scale),
      make("div", { className: "times" }, this.from, now));
  }

  // Adds a sample, with `values` in the order of the names. A sample from a history that came later
  // may be older than the newest one.
  add(time, values) {
    const sample = [time, ...values];
    const at = this.samples.findLastIndex(([before]) => before <= time);
    if (this.samples[at]?.[0] === time) this.samples[at] = sample;
    else this.samples.splice(at + 1, 0, sample);
    const oldest = this.samples.at(-1)[0] - CHART_SECONDS.at(-1);
    while (this.samples[0][0] < oldest) this.samples.shift();
  }

  draw() {
    if (this.samples.length === 0) return;
    const [now, ...newest] = this.samples.at(-1);
    const span = now - this.samples[0][0];
    const seconds = CHART_SECONDS.find((seconds) => span <= seconds) ?? CHART_SECONDS.at(-1);
    const values = this.samples.flatMap(([, ...values]) => values);
    const peak = above(values.reduce((peak, value) => Math.max(peak, value ?? 0), 0));
    this.svg.setAttribute("viewBox", `0 0 ${seconds} ${CHART_HEIGHT}`);
    // The history of a host has a sample every 30 s.
    const gap = Math.max(35, seconds / 50);
    for (const [index, line] of this.lines.entries()) {
      const known = this.samples.filter((sample) => sample[index + 1] !== null)
        .map((sample) => [sample[0], sample[index + 1]]);
      const drawn = trace(known, { now, seconds, height: CHART_HEIGHT, peak, gap });
      line.setAttribute("d", drawn.line);
      say(this.outputs[index], optional(this.format)(newest[index]));
    }
    say(this.top, this.format(peak));
    say(this.from, seconds < 3600 ? `${seconds / 60} min ago` : "1 h ago");
  }
}
