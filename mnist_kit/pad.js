// The pad in the browser. It draws the ink under the pen at once and tells the kernel, whose strokes are the truth.

const INK = "#0099ff";
const GATHER = 40; // ms that moves are gathered for: each message costs the page, the server and the kernel work

// One sheet for each widget model, shared by all its views on this page.
export default () => {
  let sheet;
  return {
    initialize({ model }) {
      sheet = new Sheet(model);
    },
    render({ model, el }) {
      const view = new View(sheet, model, el);
      return () => view.close();
    },
  };
};

/** The strokes, as far as this page knows them, and the conversation with the kernel about them. */
class Sheet {
  constructor(model) {
    this.model = model;
    this.client = Math.random().toString(36).slice(2);
    this.strokes = [];
    this.views = new Set();
    this.pen = null; // the stroke that is being drawn here
    this.lastId = 0;
    this.forget();
    model.on("msg:custom", (message) => this.receive(message));
    this.send("ready");
  }

  send(kind, content = {}) {
    this.model.send({ kind, client: this.client, ...content });
  }

  /** pressure: share of the radius, null for a pen without; all moves of the stroke then have one, or none. */
  down(point, radius, erase, pressure) {
    this.pen = { id: ++this.lastId, radius, erase, points: [point], pressure: pressure && [pressure] };
    this.add(this.pen);
    this.send("down", { stroke: this.pen.id, point, radius, erase, pressure });
  }

  move(points, pressure) {
    if (!this.pen) return;
    if (!this.pen.pressure) pressure = [];
    this.extend(this.pen, points, pressure);
    this.unsent.push(...points);
    this.unsentPressure.push(...pressure);
    this.timer ??= setTimeout(() => this.flush(), GATHER);
  }

  up() {
    if (!this.pen) return;
    this.flush();
    this.send("up", { stroke: this.pen.id });
    this.pen = null;
  }

  flush() {
    clearTimeout(this.timer);
    this.timer = undefined;
    const pressure = this.unsentPressure.length ? this.unsentPressure : null;
    if (this.unsent.length) this.send("move", { stroke: this.lastId, points: this.unsent, pressure });
    this.forget();
  }

  forget() {
    this.unsent = [];
    this.unsentPressure = [];
  }

  receive(message) {
    if (message.kind === "strokes") this.reset(message);
    if (message.kind === "line" && message.from !== this.client) {
      if (message.begin) this.add((this.others = { ...message.stroke }));
      else if (this.others) this.extend(this.others, message.stroke.points, message.stroke.pressure ?? []);
    }
  }

  /** Take over the kernel's strokes, and keep those drawn here that it has not come to yet. */
  reset({ strokes, last, live }) {
    const heard = last[this.client] ?? 0;
    const own = this.strokes.filter((stroke) => stroke.id >= heard);
    const current = own.find((stroke) => stroke.id === heard);
    if (live === this.client && current) strokes[strokes.length - 1] = current;
    else if (this.pen?.id <= heard) {
      this.pen = null; // undone while it was being drawn
      this.forget();
    }
    this.others = strokes.at(-1);
    this.strokes = [...strokes, ...own.filter((stroke) => stroke.id > heard)];
    for (const view of this.views) view.redraw();
  }

  add(stroke) {
    this.strokes.push(stroke);
    for (const view of this.views) view.drawLine(stroke);
  }

  extend(stroke, points, pressure) {
    const first = stroke.points.length;
    stroke.points.push(...points);
    // A pen that says nothing of its pressure any more keeps the last.
    stroke.pressure?.push(...points.map((_, i) => pressure[i] ?? stroke.pressure.at(-1)));
    for (const view of this.views) view.drawLine(stroke, first);
  }
}

class View {
  constructor(sheet, model, el) {
    this.sheet = sheet;
    this.model = model;
    this.width = model.get("width");
    this.height = model.get("height");
    this.closing = new AbortController();
    this.build(el);
    this.listenToPen();
    this.listenToModel();
    sheet.views.add(this);
    // Only once the page has a size is it in the document, where its pad and the device's pixels can be asked for.
    this.observer = new ResizeObserver(() => {
      if (!this.page.isConnected || this.pad) return;
      this.pad = this.page.closest(".mnist-pad") ?? this.page;
      this.listenToKeys();
      this.labelControls();
      this.fitDevice();
    });
    this.observer.observe(this.page);
  }

  close() {
    this.sheet.up();
    this.sheet.views.delete(this);
    this.observer.disconnect();
    this.closing.abort();
  }

  listen(target, events, handler, options = {}) {
    for (const event of events.split(" "))
      target.addEventListener(event, handler, { ...options, signal: this.closing.signal });
  }

  build(el) {
    el.innerHTML = `
      <div class="mnist-page" tabindex="0" role="application" data-jp-suppress-context-menu
        aria-label="Drawing pad: left button draws, right button erases, d recognises, c clears">
        <canvas></canvas>
        <svg viewBox="0 0 ${this.width} ${this.height}" aria-hidden="true"><g></g><circle visibility="hidden"/></svg>
        <output aria-live="polite"></output>
      </div>`;
    this.page = el.querySelector(".mnist-page");
    this.page.style.aspectRatio = `${this.width} / ${this.height}`;
    this.context = el.querySelector("canvas").getContext("2d");
    this.boxes = el.querySelector("g");
    this.brush = el.querySelector("circle");
    this.answer = el.querySelector("output");
  }

  listenToPen() {
    const { page, sheet } = this;
    this.listen(page, "contextmenu", (event) => event.preventDefault());
    this.listen(page, "pointerdown", (event) => {
      if (sheet.pen || ![0, 2, 5].includes(event.button)) return; // left or tip, right, a pen's other end
      event.preventDefault();
      page.focus({ preventScroll: true });
      page.setPointerCapture(event.pointerId);
      this.pointer = event.pointerId;
      this.showBrush(event);
      const erase = event.button > 0 || this.model.get("erasing");
      const pressure = this.model.get("pressure") && hasPressure(event) ? pressureOf(event) : null;
      sheet.down(this.pointsOf([event])[0], this.model.get("radius"), erase, pressure);
    });
    this.listen(page, "pointermove", (event) => {
      this.showBrush(event);
      if (event.pointerId !== this.pointer) return;
      const coalesced = event.getCoalescedEvents?.() ?? [];
      const passed = coalesced.length ? coalesced : [event];
      sheet.move(this.pointsOf(passed), passed.map(pressureOf));
    });
    this.listen(page, "pointerup pointercancel lostpointercapture", (event) => {
      if (event.pointerId !== this.pointer) return;
      this.pointer = undefined;
      sheet.up();
    });
    this.listen(page, "pointerleave", () => this.brush.setAttribute("visibility", "hidden"));
    this.listen(page, "wheel", (event) => this.turnWheel(event), { passive: false });
  }

  turnWheel(event) {
    if (document.activeElement !== this.page || !event.deltaY) return;
    event.preventDefault();
    const radius = this.model.get("radius") - Math.sign(event.deltaY);
    this.model.set("radius", Math.min(Math.max(radius, 1), 50));
    this.model.save_changes();
  }

  /** The keys of the pad. The others stop here too: in JupyterLab's command mode `d d` would delete the cell. */
  listenToKeys() {
    this.pad.tabIndex = -1; // a click between the buttons gives the pad the focus, not the notebook
    this.listen(this.pad, "keydown", (event) => {
      const plain = !(event.ctrlKey || event.metaKey || event.altKey);
      const typing = isTyping(event.target);
      const command = typing ? undefined : commandOf(event, plain);
      const selectsAll = !plain && !typing && event.key.toLowerCase() === "a"; // all cells of the notebook
      if (command || selectsAll) event.preventDefault();
      if (command) this.sheet.send("do", { command });
      if (command || plain || selectsAll) event.stopPropagation();
    });
  }

  /** ipywidgets ties no label to the handle and the number of a slider, and does not say which tool is chosen. */
  labelControls() {
    for (const slider of this.pad.querySelectorAll(".widget-slider")) {
      const label = slider.querySelector("label").textContent;
      slider.querySelector("[role=slider]")?.setAttribute("aria-label", label);
      const number = slider.querySelector("[contenteditable]");
      number?.setAttribute("role", "textbox");
      number?.setAttribute("aria-label", label);
    }
    const tools = [...this.pad.querySelectorAll(".widget-toggle-button")]; // draw, erase
    const tell = () => tools.forEach((tool, i) => tool.setAttribute("aria-pressed", (i > 0) === this.model.get("erasing")));
    this.model.on("change:erasing", tell);
    tell();
  }

  listenToModel() {
    const show = { radius: () => this.showRadius(), answer: () => this.showAnswer(), boxes: () => this.showBoxes() };
    for (const [name, update] of Object.entries(show)) {
      this.model.on(`change:${name}`, update);
      update();
    }
  }

  /** Page coordinates, to a tenth of a pixel, of pointer events. */
  pointsOf(events) {
    const { left, top, width } = this.page.getBoundingClientRect();
    const scale = this.width / width;
    const tenths = (value) => Math.round(value * scale * 10) / 10;
    return events.map((event) => [tenths(event.clientX - left), tenths(event.clientY - top)]);
  }

  showBrush(event) {
    const [[x, y]] = this.pointsOf([event]);
    this.brush.setAttribute("cx", x);
    this.brush.setAttribute("cy", y);
    this.brush.setAttribute("visibility", event.pointerType === "touch" ? "hidden" : "visible");
  }

  showRadius() {
    this.brush.setAttribute("r", this.model.get("radius"));
  }

  showAnswer() {
    this.answer.textContent = this.model.get("answer");
  }

  showBoxes() {
    const rectangle = ([left, top, right, bottom]) =>
      `<rect x="${left}" y="${top}" width="${right - left}" height="${bottom - top}"/>`;
    this.boxes.innerHTML = this.model.get("boxes").map(rectangle).join("");
  }

  /** Give the canvas a pixel for each of the device's, again whenever that changes (zoom, another screen). */
  fitDevice() {
    const { canvas } = this.context;
    canvas.width = Math.round(this.width * devicePixelRatio);
    canvas.height = Math.round(this.height * devicePixelRatio);
    this.context.scale(canvas.width / this.width, canvas.height / this.height);
    this.redraw();
    const ratio = matchMedia(`(resolution: ${devicePixelRatio}dppx)`);
    this.listen(ratio, "change", () => this.fitDevice(), { once: true });
  }

  redraw() {
    this.context.clearRect(0, 0, this.width, this.height);
    for (const stroke of this.sheet.strokes) this.drawLine(stroke);
  }

  /** Draw a stroke from its point number `first` on. Ink is opaque here and made translucent as a whole by its style. */
  drawLine({ points, radius, erase, pressure }, first = 0) {
    const { context } = this;
    const share = (i) => pressure?.[Math.max(i, 0)] ?? 1;
    context.globalCompositeOperation = erase ? "destination-out" : "source-over";
    context.strokeStyle = context.fillStyle = INK;
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = 2 * radius;
    context.beginPath();
    if (first === 0) {
      context.arc(...points[0], radius * share(0), 0, 2 * Math.PI);
      context.fill();
      context.beginPath();
    }
    context.moveTo(...points[Math.max(first - 1, 0)]);
    for (let i = Math.max(first, 1); i < points.length; i++) {
      context.lineTo(...points[i]);
      if (!pressure) continue;
      context.lineWidth = radius * (share(i - 1) + share(i));
      context.stroke();
      context.beginPath();
      context.moveTo(...points[i]);
    }
    if (!pressure) context.stroke();
  }
}

/** Pens without a sensor, like mice and fingers, say 0 or just one half. */
function hasPressure({ pointerType, pressure }) {
  return pointerType === "pen" && pressure > 0 && pressure !== 0.5;
}

/** The share of the brush's radius; the circle around the brush is what full pressure gives. */
function pressureOf({ pressure }) {
  return Math.round((0.25 + 0.75 * pressure) * 100) / 100;
}

function isTyping(target) {
  return target.closest("input:not([type=checkbox]), select, textarea, [contenteditable=true]") !== null;
}

function commandOf(event, plain) {
  const key = event.key.toLowerCase();
  if (plain) return { d: "recognise", c: "clear" }[key];
  if (event.altKey) return undefined;
  return { z: event.shiftKey ? "redo" : "undo", y: "redo" }[key];
}
