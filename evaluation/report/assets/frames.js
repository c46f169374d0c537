// Frames of a video on a canvas, with the places whose tokens a compressor kept.

const LABEL = 14; // pixels above a frame
const SPACE = 6;
const DIM = "rgba(10, 12, 18, 0.7)";
const MERGED = "37, 120, 235"; // red, green, blue of the shade of merged tokens
const sheets = new Map(); // video -> its image, or a promise of it

/** The sprite sheet of a video, decoded once. */
function sheetOf(number) {
  if (!sheets.has(number)) {
    const image = new Image();
    image.src = DATA.drill.videos[number].sheet.src;
    sheets.set(number, image.decode().then(() => image));
  }
  return sheets.get(number);
}

/** What was kept: a bit a place of the grid, and how many originals the tokens stand for, by place. */
function unpack(set, grid) {
  const packed = bytes(set.mask);
  const places = grid[0] * grid[1] * grid[2];
  const has = Uint8Array.from({ length: places }, (_, place) => bit(packed, place));
  const sizes = new Map();
  if (set.sizes) {
    const stream = bytes(set.sizes); // seven bits a byte, the lowest first; the highest bit says that more follow
    let at = 0;
    for (let place = 0; place < places; place++) {
      if (!has[place]) continue;
      let [size, shift] = [0, 1];
      for (let more = true; more; shift *= 128) {
        more = stream[at] > 127;
        size += (stream[at++] & 127) * shift;
      }
      sizes.set(place, size);
    }
  }
  return { has, sizes, most: Math.max(1, ...sizes.values()) };
}

/** Places of frames on a canvas of a width. */
function layout(video, steps, width) {
  const { tile } = video.sheet;
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
  const each = grid[1] * grid[2];
  let count = 0;
  for (let place = step * each; place < (step + 1) * each; place++) count += kept.has[place];
  return count;
};

function paintCells(pen, box, view, step) {
  const [, rows, columns] = view.video.grid;
  const [wide, high] = [box.wide / columns, box.high / rows];
  for (let i = 0; i < rows * columns; i++) {
    const place = step * rows * columns + i;
    const [x, y] = [box.x + (i % columns) * wide, box.y + Math.floor(i / columns) * high];
    if (!view.kept.has[place]) {
      pen.fillStyle = DIM;
      pen.fillRect(x, y, wide, high);
      continue;
    }
    const size = view.kept.sizes.get(place) || 1;
    if (size > 1) {
      pen.fillStyle = `rgba(${MERGED}, ${(0.2 + 0.4 * Math.log(size) / Math.log(view.kept.most)).toFixed(3)})`;
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

/** Draws the frames of a view {video, image, kept, boxes, steps, at} and sizes the canvas for them. */
function paint(canvas, view) {
  const width = canvas.parentElement.clientWidth;
  const place = layout(view.video, view.steps, width);
  const sharp = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * sharp);
  canvas.height = Math.round(place.height * sharp);
  canvas.style.height = `${place.height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(sharp, sharp);
  const ink = getComputedStyle(canvas).color;
  const { tile, columns, shown } = view.video.sheet;
  view.steps.forEach((step, i) => {
    const box = place.boxes[i];
    const at = shown.indexOf(step);
    const [sx, sy] = [(at % columns) * tile[0], Math.floor(at / columns) * tile[1]];
    pen.drawImage(view.image, sx, sy, tile[0], tile[1], box.x, box.y, box.wide, box.high);
    paintCells(pen, box, view, step);
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
  canvas.place = place;
}

const seconds = (video, step) => `${Number(video.times[step].toPrecision(5))} s`;

/** Step and place of the grid under a pointer, or null. */
function under(canvas, view, event) {
  const frame = canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
  const inside = ({ x: left, y: top, wide, high }) => x >= left && x < left + wide && y >= top && y < top + high;
  const i = canvas.place.boxes.findIndex(inside);
  if (i < 0) return null;
  const box = canvas.place.boxes[i];
  const [, rows, columns] = view.video.grid;
  const row = Math.floor(((y - box.y) / box.high) * rows);
  const column = Math.floor(((x - box.x) / box.wide) * columns);
  return { step: view.steps[i], place: (view.steps[i] * rows + row) * columns + column };
}
