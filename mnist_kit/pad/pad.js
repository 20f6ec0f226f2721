// The pen of the pad in the browser. It draws the ink under the pointer at once, on the pixels of the ipycanvas canvas
// that lies below, and tells the kernel, whose strokes are the truth and which draws the canvas.

const INK = "#0099ff";
const GATHER = 40; // ms that moves are gathered for: each message costs the page, the server and the kernel work
const PATIENCE = 500; // ms; a kernel that shows nothing for longer is said to be waited for

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
    this.forget();
    model.on("msg:custom", (message) => this.receive(message));
    model.on("comm_live_update", () => this.say("no kernel any more: run this cell again"));
    model.widget_manager.get_model(model.get("paper").replace("IPY_MODEL_", "")).then(
      (paper) => {
        this.paper = paper;
        paper.on("new-frame", () => this.redraw());
      },
      () => this.say("the server of this page lacks ipycanvas: install it there and reload"),
    );
  }

  send(kind, content = {}) {
    this.model.send({ kind, client: this.client, ...content });
  }

  /** Say for good that drawing is not possible. */
  say(problem) {
    this.problem = problem;
    for (const view of this.views) view.showHint();
  }

  /** pressure: share of the radius, null for a pen without; all moves of the stroke then have one, or none. */
  down(point, radius, erase, pressure) {
    this.pen = { id: ++this.lastId, radius, erase, points: [point], pressure: pressure && [pressure] };
    this.pending.push(this.pen);
    this.draw(this.pen);
    this.send("down", { stroke: this.pen.id, point, radius, erase, pressure });
  }

  move(points, pressure) {
    const { pen } = this;
    if (!pen) return;
    const first = pen.points.length;
    pen.points.push(...points);
    this.unsent.push(...points);
    if (pen.pressure) {
      pen.pressure.push(...pressure);
      this.unsentPressure.push(...pressure);
    }
    this.draw(pen, first);
    this.timer ??= setTimeout(() => this.flush(), GATHER);
  }

  up() {
    if (!this.pen) return;
    this.flush();
    this.send("up", { stroke: this.pen.id });
    this.pen = null;
    this.wait();
  }

  /** Undo, redo, clear or recognise: the first three are to be seen at once, as far as they concern what is pending. */
  command(command) {
    if (command === "recognise") return this.send("do", { command });
    this.up();
    this.pending.push({ id: ++this.lastId, command });
    this.redraw();
    this.send("do", { command, stroke: this.lastId });
    this.wait();
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

  /** The kernel shows, with the frame that comes next, all that it heard from each browser; live: the growing stroke. */
  receive({ kind, heard, live }) {
    if (kind !== "known") return;
    const last = heard[this.client] ?? 0;
    const grows = ({ id }) => live?.[0] === this.client && live[1] === id;
    this.pending = this.pending.filter((act) => act.id > last || grows(act));
    if (this.pen && !this.pending.includes(this.pen)) {
      this.pen = null; // undone, or ended by another pen, while it was being drawn
      this.forget();
    }
    this.connected = true;
    this.wait();
  }

  /** Say so when the kernel takes its time. */
  wait() {
    clearTimeout(this.patience);
    this.late = false;
    if (!this.connected || this.pending.some((act) => act !== this.pen))
      this.patience = setTimeout(() => {
        this.late = true;
        for (const view of this.views) view.showHint();
      }, PATIENCE);
    for (const view of this.views) view.showHint();
  }

  /** Show the canvas and, over it, what of the pending is not undone. A frame's copy to the views runs before this. */
  redraw() {
    const shown = [], undone = [];
    for (const act of this.pending) {
      if (act.command === "undo") undone.push(...shown.splice(-1));
      else if (act.command === "redo") shown.push(...undone.splice(-1));
      else shown.push(act);
    }
    this.onCanvases((view) => {
      view.el.parentElement.inert = true; // an ipycanvas canvas swallows keys and tells the kernel each move
      view.updateCanvas();
      for (const act of shown) act.command ? view.clear() : this.trace(view, act);
    });
  }

  draw(stroke, first) {
    this.onCanvases((view) => this.trace(view, stroke, first));
    for (const view of this.views) view.showHint();
  }

  onCanvases(act) {
    for (const view of Object.values(this.paper?.views ?? {})) view.then(act);
  }

  /** Draw a stroke from its point number `first` on, as canvas.py does. Ink is opaque here, translucent by its style. */
  trace({ ctx, el }, { points, radius, erase, pressure }, first = 0) {
    const scale = el.width / this.model.get("width");
    ctx.save();
    ctx.setTransform(scale, 0, 0, scale, 0, 0);
    ctx.globalCompositeOperation = erase ? "destination-out" : "source-over";
    ctx.strokeStyle = ctx.fillStyle = INK;
    ctx.lineCap = ctx.lineJoin = "round";
    ctx.lineWidth = 2 * radius;
    const start = Math.max(first - 1, 0);
    if (pressure) this.tracePressed(ctx, points, pressure.map((share) => share * radius), start);
    else {
      ctx.beginPath();
      ctx.moveTo(points[start][0] + (first ? 0 : 0.01), points[start][1]); // a line of no length would leave no dot
      for (let i = start; i < points.length; i++) ctx.lineTo(...points[i]);
      ctx.stroke();
    }
    ctx.restore();
  }

  tracePressed(ctx, points, radii, start) {
    for (let i = start; i < points.length; i++) {
      const [x, y] = points[i];
      ctx.beginPath();
      ctx.arc(x, y, radii[i], 0, 2 * Math.PI);
      ctx.fill();
      if (i === start) continue;
      const [x0, y0] = points[i - 1], length = Math.max(Math.hypot(x - x0, y - y0), 1e-6);
      const across = [(y0 - y) / length, (x - x0) / length];
      ctx.beginPath();
      for (const [px, py, r] of [[x0, y0, radii[i - 1]], [x, y, radii[i]], [x, y, -radii[i]], [x0, y0, -radii[i - 1]]])
        ctx.lineTo(px + r * across[0], py + r * across[1]);
      ctx.fill();
    }
  }
}

class View {
  constructor(sheet, model, el) {
    this.sheet = sheet;
    this.model = model;
    this.el = el;
    this.turned = 0;
    this.closing = new AbortController();
    this.build();
    this.listenToPen();
    this.listenToModel();
    sheet.views.add(this);
    // Only once it has a size is the layer in the document, where its pad and the device's pixels can be asked for.
    this.observer = new ResizeObserver(() => {
      if (!el.isConnected || this.pad) return;
      this.pad = el.closest(".mnist-pad") ?? el;
      this.listenToKeys();
      this.listenToButtons();
      this.labelControls();
      this.tellRatio();
    });
    this.observer.observe(el);
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

  build() {
    const { el, model } = this, width = model.get("width"), height = model.get("height");
    el.tabIndex = 0;
    el.setAttribute("role", "application");
    el.setAttribute("aria-label", "Drawing pad: left button draws, right button erases, d recognises, c clears");
    el.dataset.jpSuppressContextMenu = "";
    el.classList.add("mnist-pen");
    el.style.aspectRatio = `${width} / ${height}`;
    el.innerHTML = `
      <svg viewBox="0 0 ${width} ${height}" aria-hidden="true"><g></g><circle visibility="hidden"/></svg>
      <output aria-live="polite"></output><div class="mnist-hint" role="status"></div>`;
    [this.boxes, this.brush, this.answer, this.hint] = ["g", "circle", "output", "div"].map((tag) => el.querySelector(tag));
  }

  listenToPen() {
    const { el, model, sheet } = this;
    this.listen(el, "contextmenu", (event) => event.preventDefault());
    this.listen(el, "pointerdown", (event) => {
      if (sheet.pen || sheet.problem || ![0, 2, 5].includes(event.button)) return; // left or tip, right, a pen's other end
      event.preventDefault();
      el.focus({ preventScroll: true });
      el.setPointerCapture(event.pointerId);
      this.pointer = event.pointerId;
      this.showBrush(event);
      const erase = event.button > 0 || model.get("tool") === 1;
      const pressure = model.get("pressure") && hasPressure(event) ? pressureOf(event) : null;
      sheet.down(this.pointsOf([event])[0], model.get("radius"), erase, pressure);
    });
    this.listen(el, "pointermove", (event) => {
      this.showBrush(event);
      if (event.pointerId !== this.pointer) return;
      const coalesced = event.getCoalescedEvents?.() ?? [];
      const passed = coalesced.length ? coalesced : [event];
      sheet.move(this.pointsOf(passed), passed.map(pressureOf));
    });
    this.listen(el, "pointerup pointercancel lostpointercapture", (event) => {
      if (event.pointerId !== this.pointer) return;
      this.pointer = undefined;
      sheet.up();
    });
    this.listen(el, "pointerleave", () => this.brush.setAttribute("visibility", "hidden"));
    this.listen(el, "wheel", (event) => this.turnWheel(event), { passive: false });
  }

  /** A notch of a mouse wheel is about 100 px, and one of radius; a trackpad sends the same in many small steps. */
  turnWheel(event) {
    if (document.activeElement !== this.el || !event.deltaY || event.ctrlKey) return; // with Ctrl it zooms the page
    event.preventDefault();
    this.turned -= event.deltaY / (event.deltaMode ? 3 : 100); // lines, or pixels
    const steps = Math.trunc(this.turned);
    this.turned -= steps;
    this.model.set("radius", Math.min(Math.max(this.model.get("radius") + steps, 1), 50));
    this.model.save_changes();
  }

  /** The keys of the pad. No shortcut of the notebook hears the others either: `d d` would delete the cell. */
  listenToKeys() {
    this.pad.tabIndex = -1; // a click between the buttons gives the pad the focus, not the notebook
    // On the window, since Notebook 7 listens on the document before the event comes down to the pad.
    this.listen(window, "keydown", (event) => {
      const { target } = event;
      if (!this.pad.contains(target)) return;
      const plain = !(event.ctrlKey || event.metaKey || event.altKey);
      const typing = target.closest("input:not([type=checkbox]), select, textarea, [contenteditable=true]") !== null;
      const command = typing ? undefined : commandOf(event, plain);
      const selectsAll = !plain && !typing && event.key.toLowerCase() === "a"; // all cells of the notebook
      if (command || selectsAll) event.preventDefault();
      if (command) this.sheet.command(command);
      if (command || plain || selectsAll) target.dataset.lmSuppressShortcuts = "true";
      else delete target.dataset.lmSuppressShortcuts;
    }, { capture: true });
  }

  /** The browser itself sends these commands, in one line with the strokes. */
  listenToButtons() {
    this.listen(this.pad, "click", (event) => {
      const button = event.target.closest("[class*=mnist-do-]");
      if (!button) return;
      event.stopPropagation(); // the kernel need not hear of the click
      this.sheet.command(button.className.match(/mnist-do-(\w+)/)[1]);
    }, { capture: true });
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
    const tell = () => tools.forEach((tool, i) => tool.setAttribute("aria-pressed", i === this.model.get("tool")));
    this.model.on("change:tool", tell);
    tell();
  }

  listenToModel() {
    const show = {
      radius: () => this.brush.setAttribute("r", this.model.get("radius")),
      answer: () => (this.answer.textContent = this.model.get("answer")),
      boxes: () => this.showBoxes(),
      empty: () => this.showHint(),
    };
    for (const [name, update] of Object.entries(show)) {
      this.model.on(`change:${name}`, update);
      update();
    }
  }

  /** Page coordinates, to a tenth of a pixel, of pointer events. */
  pointsOf(events) {
    const { left, top, width } = this.el.getBoundingClientRect();
    const scale = this.model.get("width") / width;
    const tenths = (value) => Math.round(value * scale * 10) / 10;
    return events.map((event) => [tenths(event.clientX - left), tenths(event.clientY - top)]);
  }

  showBrush(event) {
    const [[x, y]] = this.pointsOf([event]);
    this.brush.setAttribute("cx", x);
    this.brush.setAttribute("cy", y);
    this.brush.setAttribute("visibility", event.pointerType === "touch" ? "hidden" : "visible");
  }

  showBoxes() {
    const rectangle = ([left, top, right, bottom]) =>
      `<rect x="${left}" y="${top}" width="${right - left}" height="${bottom - top}"/>`;
    this.boxes.innerHTML = this.model.get("boxes").map(rectangle).join("");
  }

  showHint() {
    const { problem, late, pending } = this.sheet;
    const blank = this.model.get("empty") && !pending.some((act) => act.points);
    const hint = problem ?? (late ? "waiting for the kernel…" : blank ? "draw a digit here" : "");
    if (this.hint.textContent !== hint) this.hint.textContent = hint;
  }

  /** Tell the kernel how fine the screen is, again whenever that changes (zoom, another screen). */
  tellRatio() {
    this.sheet.send("ready", { ratio: devicePixelRatio });
    this.sheet.wait();
    const ratio = matchMedia(`(resolution: ${devicePixelRatio}dppx)`);
    this.listen(ratio, "change", () => this.tellRatio(), { once: true });
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

function commandOf(event, plain) {
  const key = event.key.toLowerCase();
  if (plain) return { d: "recognise", c: "clear" }[key];
  if (event.altKey) return undefined;
  return { z: event.shiftKey ? "redo" : "undo", y: "redo" }[key];
}
