// Frames of a video on a canvas, with the tokens that a method kept.

const LABEL = 14; // height of the text above a frame, in pixels
const SPACE = 6; // between frames, in pixels
const DIM = "rgba(10, 12, 18, 0.7)";
const MERGED = "37, 120, 235"; // red, green and blue of merged tokens
const mosaics = new Map(); // number of the video -> its image, or a promise of it

/** Returns the mosaic of a video, or a promise of it; it is decoded once. */
function mosaicOf(number) {
  if (!mosaics.has(number)) {
    const image = new Image();
    image.src = DATA.detail.videos[number].mosaic.src;
    mosaics.set(number, image.decode().then(() => image));
  }
  return mosaics.get(number);
}

/** Unpacks kept tokens: for each token of the grid whether it was kept, and the number of originals of merged ones. */
function unpack(set, grid) {
  const packed = bytes(set.mask);
  const tokens = grid[0] * grid[1] * grid[2];
  const isKept = Uint8Array.from({ length: tokens }, (_, token) => bit(packed, token));
  const sizes = new Map();
  if (set.sizes) {
    const stream = bytes(set.sizes); // groups of seven bits, the lowest first; the highest bit of a byte says that more follow
    let at = 0;
    for (let token = 0; token < tokens; token++) {
      if (!isKept[token]) continue;
      let [size, shift] = [0, 1];
      for (let more = true; more; shift *= 128) {
        more = stream[at] > 127;
        size += (stream[at++] & 127) * shift;
      }
      sizes.set(token, size);
    }
  }
  return { isKept, sizes, largest: Math.max(1, ...sizes.values()) };
}

/** Returns the positions of frames on a canvas of the given width. */
function layout(video, steps, width) {
  const { tile } = video.mosaic;
  const wanted = Math.max(46, Math.min(72, width / 8 - SPACE));
  const columns = Math.max(1, Math.min(steps.length || 1, Math.floor((width + SPACE) / (wanted + SPACE))));
  const full = Math.max(1, Math.floor((width + SPACE) / (wanted + SPACE)));
  const wide = Math.floor((width - SPACE * (full - 1)) / full);
  const high = Math.round((wide * tile[1]) / tile[0]);
  const boxes = steps.map((_, i) => ({
    x: (i % columns) * (wide + SPACE), y: Math.floor(i / columns) * (high + LABEL + SPACE) + LABEL, wide, high,
  }));
  const lines = Math.max(1, Math.ceil(steps.length / columns));
  return { boxes, columns, height: lines * (high + LABEL + SPACE) };
}

const keptIn = (kept, grid, step) => {
  const perFrame = grid[1] * grid[2];
  let count = 0;
  for (let token = step * perFrame; token < (step + 1) * perFrame; token++) count += kept.isKept[token];
  return count;
};

function paintTokens(pen, box, view, step) {
  const [, rows, columns] = view.video.grid;
  const [wide, high] = [box.wide / columns, box.high / rows];
  for (let i = 0; i < rows * columns; i++) {
    const token = step * rows * columns + i;
    const [x, y] = [box.x + (i % columns) * wide, box.y + Math.floor(i / columns) * high];
    if (!view.kept.isKept[token]) {
      pen.fillStyle = DIM;
      pen.fillRect(x, y, wide, high);
      continue;
    }
    const size = view.kept.sizes.get(token) || 1;
    if (size > 1) {
      pen.fillStyle = `rgba(${MERGED}, ${(0.2 + 0.4 * Math.log(size) / Math.log(view.kept.largest)).toFixed(3)})`;
      pen.fillRect(x, y, wide, high);
      if (wide >= 12 && high >= 10) number(pen, size, x + wide / 2, y + high / 2, wide);
    }
    pen.lineWidth = 1;
    pen.strokeStyle = "rgba(255, 255, 255, 0.85)";
    pen.strokeRect(x + 0.5, y + 0.5, wide - 1, high - 1);
  }
}

function number(pen, size, x, y, wide) {
  const text = String(size);
  pen.font = `600 ${Math.min(11, (1.6 * wide) / (text.length + 0.5))}px system-ui, sans-serif`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.lineWidth = 2.5;
  pen.strokeStyle = "rgba(0, 0, 0, 0.8)";
  pen.strokeText(text, x, y);
  pen.fillStyle = "#fff";
  pen.fillText(text, x, y);
}

function paintEvidence(pen, box, [, top, left, bottom, right]) {
  const [x, y] = [box.x + left * box.wide, box.y + top * box.high];
  const [wide, high] = [(right - left) * box.wide, (bottom - top) * box.high];
  for (const [width, colour] of [[4, "#000"], [2, "#ffd60a"]]) {
    pen.lineWidth = width;
    pen.strokeStyle = colour;
    pen.strokeRect(x, y, wide, high);
  }
}

/** Draws the frames of a view {video, image, kept, boxes, steps, at} and sets the size of the canvas. */
function paint(canvas, view) {
  const width = canvas.parentElement.clientWidth;
  const positions = layout(view.video, view.steps, width);
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(positions.height * ratio);
  canvas.style.height = `${positions.height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const ink = getComputedStyle(canvas).color;
  const { tile, columns, shown } = view.video.mosaic;
  view.steps.forEach((step, i) => {
    const box = positions.boxes[i];
    const at = shown.indexOf(step);
    const [sx, sy] = [(at % columns) * tile[0], Math.floor(at / columns) * tile[1]];
    pen.drawImage(view.image, sx, sy, tile[0], tile[1], box.x, box.y, box.wide, box.high);
    paintTokens(pen, box, view, step);
    const evidence = view.boxes.filter((one) => one[0] === step);
    evidence.forEach((one) => paintEvidence(pen, box, one));
    pen.fillStyle = ink;
    pen.font = `${evidence.length ? "700 " : ""}10.5px system-ui, sans-serif`;
    pen.textAlign = "left";
    pen.textBaseline = "alphabetic";
    pen.fillText(`${evidence.length ? "◆ " : ""}${seconds(view.video, step)}`, box.x, box.y - 3);
    pen.textAlign = "right";
    pen.fillText(String(keptIn(view.kept, view.video.grid, step)), box.x + box.wide, box.y - 3);
    if (step === view.at) {
      pen.lineWidth = 2;
      pen.strokeStyle = ink;
      pen.strokeRect(box.x - 2, box.y - 2, box.wide + 4, box.high + 4);
    }
  });
  canvas.layout = positions;
}

const seconds = (video, step) => `${Number(video.times[step].toPrecision(5))} s`;

/** Returns step and token of the grid under the pointer, or null. */
function positionUnder(canvas, view, event) {
  const frame = canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
  const inside = ({ x: left, y: top, wide, high }) => x >= left && x < left + wide && y >= top && y < top + high;
  const i = canvas.layout.boxes.findIndex(inside);
  if (i < 0) return null;
  const box = canvas.layout.boxes[i];
  const [, rows, columns] = view.video.grid;
  const row = Math.floor(((y - box.y) / box.high) * rows);
  const column = Math.floor(((x - box.x) / box.wide) * columns);
  return { step: view.steps[i], token: (view.steps[i] * rows + row) * columns + column };
}
