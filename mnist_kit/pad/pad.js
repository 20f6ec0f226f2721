// The pen of the pad in the browser. It draws the ink under the pointer at once, on the pixels of the ipycanvas canvas
// that lies below, and tells the kernel, whose strokes are the truth and which draws the canvas.

const INK = "#0099ff";
const GATHER = 40; // ms that moves are gathered for: each message costs the page, the server and the kernel work
const PATIENCE = 500; // ms; a kernel that shows nothing for longer is said to be waited for

// One sheet for each widget model, shared by all its views on this page.
export default () => {
  let sheet;
  return {
    initialize: ({ model }) => void (sheet = new Sheet(model)),
    render: ({ model, el }) => new View(sheet, model, el).close,
  };
};

/** What was done here and is not on the canvas yet, and the conversation with the kernel about it. */
class Sheet {
  constructor(model) {
    this.model = model;
    this.client = Math.random().toString(36).slice(2);
    this.pending = []; // strokes and commands, each with an id, that the kernel has not shown yet
    this.views = new Set();
    this.pen = null; // the stroke that is being drawn here
    this.lastId = 0;
    this.connected = false; // whether the kernel has ever answered
    model.on("msg:custom", (message) => this.receive(message));
    model.on("comm_live_update", () => this.tell({ problem: "no kernel any more: run this cell again" }));
    const found = (paper) => (this.paper = paper).on("new-frame", () => this.redraw());
    const missing = () => this.tell({ problem: "this page's server lacks ipycanvas: install it there and reload" });
    model.widget_manager.get_model(model.get("paper").replace("IPY_MODEL_", "")).then(found, missing);
  }

  send(kind, content) {
    this.model.send({ kind, client: this.client, ...content });
  }

  /** pressure: share of the radius, null for a pen without; all moves of the stroke then have one, or none. */
  down(point, radius, erase, pressure) {
    const page = this.model.get("width"); // px, of the points
    const pen = { id: ++this.lastId, page, radius, erase, points: [point], pressure: pressure && [pressure], sent: 0 };
    this.pending.push((this.pen = pen));
    this.onCanvases((view) => trace(view, pen));
    this.tell();
    this.flush("down");
  }

  move(points, pressure) {
    const { pen } = this;
    if (!pen) return;
    const first = pen.points.length;
    pen.points.push(...points);
    pen.pressure?.push(...pressure);
    this.onCanvases((view) => trace(view, pen, first));
    this.timer ??= setTimeout(() => this.flush(), GATHER);
  }

  flush(kind = "move") {
    this.timer = clearTimeout(this.timer); // undefined
    const { pen } = this;
    if (!pen || pen.points.length === pen.sent) return;
    const points = pen.points.slice(pen.sent), pressure = pen.pressure?.slice(pen.sent);
    this.send(kind, { stroke: pen.id, radius: pen.radius, erase: pen.erase, points, pressure });
    pen.sent += points.length;
  }

  up() {
    if (!this.pen) return;
    this.flush();
    this.send("up", { stroke: this.pen.id });
    this.pen = null;
    this.wait();
  }

  /** Undo, redo, clear, or recognise. The first three are seen at once, as far as they concern what is pending. */
  command(command) {
    if (command === "recognise") return this.send("do", { command });
    this.up();
    this.pending.push({ id: ++this.lastId, command });
    this.redraw();
    this.send("do", { command, stroke: this.lastId });
    this.wait();
  }

  /** The kernel will show, with its next frame, all that it heard from each browser; live: the stroke that grows. */
  receive({ heard, live }) {
    const grows = ({ id }) => live?.[0] === this.client && live[1] === id;
    this.pending = this.pending.filter((act) => act.id > (heard[this.client] ?? 0) || grows(act));
    if (!this.pending.includes(this.pen)) this.pen = null; // undone, or ended by another pen, while it was drawn
    this.connected = true;
    this.wait();
  }

  /** Say so when the kernel takes its time. */
  wait() {
    clearTimeout(this.patience);
    if (!this.connected || this.pending.some((act) => act !== this.pen))
      this.patience = setTimeout(() => this.tell({ late: true }), PATIENCE);
    this.tell({ late: false });
  }

  tell(state) {
    Object.assign(this, state);
    for (const view of this.views) view.show();
  }

  /** Show the canvas and, over it, what of the pending is not undone. ipycanvas has copied a frame to its views then. */
  redraw() {
    const shown = [], undone = [];
    for (const act of this.pending)
      if (act.command === "undo") undone.push(...shown.splice(-1));
      else if (act.command === "redo") shown.push(...undone.splice(-1));
      else shown.push(act);
    this.onCanvases((view) => {
      view.el.parentElement.inert = true; // an ipycanvas canvas swallows keys and tells the kernel each move
      view.updateCanvas();
      for (const act of shown) act.command ? view.clear() : trace(view, act);
    });
  }

  onCanvases(act) {
    for (const view of Object.values(this.paper?.views ?? {})) view.then(act);
  }
}

/** Draw a stroke from its point number `first` on, as canvas.py does. Ink is opaque here, translucent by its style. */
function trace({ ctx, el }, { page, points, radius, erase, pressure }, first = 0) {
  ctx.save();
  ctx.setTransform(el.width / page, 0, 0, el.width / page, 0, 0);
  ctx.globalCompositeOperation = erase ? "destination-out" : "source-over";
  ctx.strokeStyle = INK;
  ctx.lineCap = ctx.lineJoin = "round";
  for (let i = first; i < points.length; i++) {
    const from = Math.max(i - 1, 0), [x, y] = points[from];
    ctx.lineWidth = radius * (pressure ? pressure[from] + pressure[i] : 2); // as wide as its two ends on average
    ctx.beginPath();
    ctx.moveTo(i ? x : x + 0.01, y); // a line of no length would leave no dot
    ctx.lineTo(...points[i]);
    ctx.stroke();
  }
  ctx.restore();
}

class View {
  constructor(sheet, model, el) {
    Object.assign(this, { sheet, model, width: model.get("width"), turned: 0, closing: new AbortController() });
    el.innerHTML = `
      <div class="mnist-pen" tabindex="0" role="application" data-jp-suppress-context-menu oncontextmenu="return false"
        style="aspect-ratio: ${this.width} / ${model.get("height")}"
        aria-label="Drawing pad: left button draws, right button erases, d recognises, c clears">
        <svg viewBox="0 0 ${this.width} ${model.get("height")}" aria-hidden="true"><g></g><circle/></svg>
        <output aria-live="polite"></output><span role="status"></span>
      </div>`;
    for (const tag of ["div", "g", "circle", "output", "span"]) this[tag] = el.querySelector(tag);
    this.listenToPen(this.div);
    model.on("change", () => this.show());
    sheet.views.add(this);
    this.show();
    // Only once it has a size is the layer in the document, where its pad and the device's pixels can be asked for.
    const observer = new ResizeObserver(() => {
      if (!el.isConnected) return;
      observer.disconnect();
      this.listenToKeys(el.closest(".mnist-pad"));
      this.labelControls(el.closest(".mnist-pad"));
      this.tellRatio();
    });
    observer.observe(el);
  }

  close = () => {
    this.sheet.up();
    this.sheet.views.delete(this);
    this.closing.abort();
  };

  listen(target, event, handler, options) {
    target.addEventListener(event, handler, { ...options, signal: this.closing.signal });
  }

  listenToPen(div) {
    const { model, sheet } = this;
    this.listen(div, "pointerdown", (event) => {
      // 0: left or tip, 2: right, 5: a pen's other end
      if (sheet.pen || sheet.problem || ![0, 2, 5].includes(event.button)) return;
      event.preventDefault();
      div.focus({ preventScroll: true });
      div.setPointerCapture((this.pointer = event.pointerId));
      this.showBrush(event);
      const [point] = this.pointsOf([event]);
      // Pens without a sensor, like mice and fingers, say 0 or just one half.
      const felt = event.pointerType === "pen" && ![0, 0.5].includes(event.pressure);
      sheet.down(point, model.get("radius"), event.button > 0 || model.get("tool") === 1, felt ? shareOf(event) : null);
    });
    this.listen(div, "pointermove", (event) => {
      this.showBrush(event);
      if (event.pointerId !== this.pointer) return;
      const coalesced = event.getCoalescedEvents?.() ?? [], passed = coalesced.length ? coalesced : [event];
      sheet.move(this.pointsOf(passed), passed.map(shareOf));
    });
    this.listen(div, "lostpointercapture", (event) => {
      if (event.pointerId !== this.pointer) return; // a second finger's
      this.pointer = undefined;
      sheet.up();
    });
    this.listen(div, "wheel", (event) => this.turnWheel(event), { passive: false });
  }

  /** A notch of a mouse wheel is about 100 px, or 3 lines; a trackpad sends the same in many small steps. */
  turnWheel(event) {
    if (document.activeElement !== this.div || !event.deltaY || event.ctrlKey) return; // with Ctrl it zooms the page
    event.preventDefault();
    this.turned -= event.deltaY * (event.deltaMode ? 34 : 1);
    const steps = Math.trunc(this.turned / 100);
    this.turned %= 100;
    this.model.set("radius", Math.min(Math.max(this.model.get("radius") + steps, 1), 50));
    this.model.save_changes();
  }

  /** The keys and the buttons whose commands go to the kernel in one line with the strokes. */
  listenToKeys(pad) {
    pad.tabIndex = -1; // a click between the buttons gives the pad the focus, not the notebook
    // No shortcut of the notebook may hear the pad's keys: `d d` would delete the cell. Notebook 7 listens on the
    // document, before the event comes down to the pad, so this listens on the window.
    this.listen(window, "keydown", (event) => {
      const { target } = event;
      if (!pad.contains(target)) return;
      const plain = !(event.ctrlKey || event.metaKey || event.altKey);
      const typing = target.closest("input:not([type=checkbox]), select, textarea, [contenteditable=true]");
      const command = typing ? undefined : commandOf(event, plain);
      if (command !== undefined) event.preventDefault();
      if (command) this.sheet.command(command);
      delete this.quieted?.dataset.lmSuppressShortcuts; // around a later target it would stop Ctrl+S
      if (plain || command !== undefined) (this.quieted = target).dataset.lmSuppressShortcuts = "true";
    }, { capture: true });
    this.listen(pad, "click", (event) => {
      const [, command] = event.target.closest("button")?.className.match(/mnist-do-(\w+)/) ?? [];
      if (command) this.sheet.command(command);
    });
  }

  /** ipywidgets ties no label to the handle and the number of a slider, and does not say which tool is chosen. */
  labelControls(pad) {
    for (const part of pad.querySelectorAll(".widget-slider [role=slider], .widget-slider [contenteditable]")) {
      part.setAttribute("aria-label", part.closest(".widget-slider").querySelector("label").textContent);
      if (part.isContentEditable) part.setAttribute("role", "textbox");
    }
    this.tools = pad.querySelectorAll(".widget-toggle-button"); // draw, erase
    this.show();
  }

  /** Page coordinates, to a tenth of a pixel, of pointer events. */
  pointsOf(events) {
    const { left, top, width } = this.div.getBoundingClientRect();
    const tenths = (value) => Math.round((value * this.width * 10) / width) / 10;
    return events.map(({ clientX, clientY }) => [tenths(clientX - left), tenths(clientY - top)]);
  }

  showBrush(event) {
    this.circle.setAttribute("transform", `translate(${this.pointsOf([event])})`);
  }

  /** Show what the kernel says: brush, tool, rectangles, answer; and what is to be said here. */
  show() {
    const { model, sheet } = this;
    const rectangle = ([left, top, right, bottom]) =>
      `<rect x="${left}" y="${top}" width="${right - left}" height="${bottom - top}"/>`;
    this.circle.setAttribute("r", model.get("radius"));
    this.g.innerHTML = model.get("boxes").map(rectangle).join("");
    this.tools?.forEach((tool, i) => tool.setAttribute("aria-pressed", i === model.get("tool")));
    const blank = model.get("empty") && !sheet.pending.some((act) => act.points);
    const hint = sheet.problem ?? (sheet.late ? "waiting for the kernel…" : blank ? "draw a digit here" : "");
    for (const [line, text] of [[this.output, model.get("answer")], [this.span, hint]])
      if (line.textContent !== text) line.textContent = text; // the same again would be read out again
  }

  /** Tell the kernel how fine the screen is, again whenever that changes (zoom, another screen). */
  tellRatio() {
    this.sheet.send("ready", { ratio: devicePixelRatio });
    this.sheet.wait();
    this.listen(matchMedia(`(resolution: ${devicePixelRatio}dppx)`), "change", () => this.tellRatio(), { once: true });
  }
}

/** The share of the brush's radius; the circle around the brush is what full pressure gives. */
const shareOf = ({ pressure }) => Math.round((0.25 + 0.75 * pressure) * 100) / 100;

/** "" for Ctrl+A, which would select all cells of the notebook; undefined for a key that is not the pad's. */
function commandOf(event, plain) {
  const withCtrl = { z: event.shiftKey ? "redo" : "undo", y: "redo", a: "" };
  return (plain ? { d: "recognise", c: "clear" } : event.altKey ? {} : withCtrl)[event.key.toLowerCase()];
}
