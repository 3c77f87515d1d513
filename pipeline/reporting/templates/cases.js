"use strict";
// A volume's axes grow to the right, the front and the top of the patient. Every image shows the larger index on its
// left and on its top, so that the patient's right is on the left: radiological convention.
const PLANES = {
  axial: { across: 0, down: 1, through: 2, letters: ["R", "L", "A", "P"] },
  coronal: { across: 0, down: 2, through: 1, letters: ["R", "L", "S", "I"] },
  sagittal: { across: 1, down: 2, through: 0, letters: ["A", "P", "S", "I"] },
};
const cases = JSON.parse(document.getElementById("cases").textContent);
const notes = cases.map(() => "");
const find = (id) => document.getElementById(id);
let current = 0, voxels = new Uint8Array(0), cross = [0, 0, 0], active = "axial";

function decode(text) {
  const bytes = atob(text), values = new Uint8Array(bytes.length);
  for (let place = 0; place < bytes.length; place++) values[place] = bytes.charCodeAt(place);
  return values;
}

// The rectangle of a canvas that a slice fills: millimetres are equally long in both directions.
function fit(plane, canvas) {
  const { shape, spacing } = cases[current];
  const width = shape[plane.across] * spacing[plane.across], height = shape[plane.down] * spacing[plane.down];
  const scale = Math.min(canvas.width / width, canvas.height / height);
  return {
    x: (canvas.width - width * scale) / 2, y: (canvas.height - height * scale) / 2,
    width: width * scale, height: height * scale,
  };
}

function readSlice(plane) {
  const { shape, weights, axis, probabilities } = cases[current];
  const guessing = 1 / Object.keys(probabilities).length;
  const width = shape[plane.across], height = shape[plane.down];
  const pixels = new ImageData(width, height), place = [0, 0, 0];
  const hasOverlay = find("overlay").checked && weights.length > 0;
  place[plane.through] = cross[plane.through];
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      place[plane.across] = width - 1 - column;
      place[plane.down] = height - 1 - row;
      const grey = voxels[(place[0] * shape[1] + place[1]) * shape[2] + place[2]];
      const tint = hasOverlay ? 0.35 * Math.max(0, weights[place[axis]] - guessing) / (1 - guessing) : 0;
      const start = 4 * (row * width + column);
      pixels.data[start] = grey + tint * (230 - grey);
      pixels.data[start + 1] = grey + tint * (159 - grey);
      pixels.data[start + 2] = grey * (1 - tint);
      pixels.data[start + 3] = 255;
    }
  }
  return pixels;
}

// The distance of the slice from the middle of the scan, towards one of the six ends that images are marked with.
function describePlace(axis) {
  const { shape, spacing } = cases[current], distance = (cross[axis] - (shape[axis] - 1) / 2) * spacing[axis];
  return `, ${Math.abs(distance).toFixed(0)} mm ${["RL", "AP", "SI"][axis][distance < 0 ? 1 : 0]} of the middle`;
}

function drawPlane(name) {
  const plane = PLANES[name], canvas = find(name), context = canvas.getContext("2d");
  const slice = readSlice(plane), box = fit(plane, canvas);
  find(`${name}-place`).textContent = describePlace(plane.through);
  const small = new OffscreenCanvas(slice.width, slice.height);
  small.getContext("2d").putImageData(slice, 0, 0);
  context.fillStyle = "#000000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(small, box.x, box.y, box.width, box.height);
  const x = box.x + (slice.width - cross[plane.across] - 0.5) * box.width / slice.width;
  const y = box.y + (slice.height - cross[plane.down] - 0.5) * box.height / slice.height;
  context.strokeStyle = name === active ? "#56b4e9" : "#56b4e980";
  context.beginPath();
  context.moveTo(x, 0); context.lineTo(x, canvas.height);
  context.moveTo(0, y); context.lineTo(canvas.width, y);
  context.stroke();
  context.font = "bold 20px system-ui, sans-serif";
  context.fillStyle = "#ffffff";
  context.strokeStyle = "#000000";
  context.lineWidth = 3;
  const [left, right, top, bottom] = plane.letters;
  const middle = canvas.height / 2 + 7, centre = canvas.width / 2 - 7;
  for (const [letter, at, height] of [
    [left, 4, middle], [right, canvas.width - 20, middle], [top, centre, 20], [bottom, centre, canvas.height - 6],
  ]) {
    context.strokeText(letter, at, height);
    context.fillText(letter, at, height);
  }
  context.lineWidth = 1;
}

function draw() {
  Object.keys(PLANES).forEach(drawPlane);
}

function show(number) {
  notes[current] = find("note").value;
  current = (number + cases.length) % cases.length;
  const one = cases[current];
  voxels = decode(one.voxels);
  cross = one.shape.map((length) => Math.floor(length / 2));
  const chances = Object.entries(one.probabilities).map(([name, value]) => `${name} ${(100 * value).toFixed(1)} %`);
  const lines = [
    `Answer: ${one.predicted}; true: ${one.label} (${one.predicted === one.label ? "correct" : "wrong"})`,
    chances.join(", "),
    `Scan ${current + 1} of ${cases.length}: ${one.scan}, patient ${one.patient}; ${one.reason}.`,
  ];
  find("answer").replaceChildren(...lines.map((line) => {
    const paragraph = document.createElement("p");
    paragraph.textContent = line;
    return paragraph;
  }));
  find("note").value = notes[current];
  draw();
}

function move(axis, step) {
  const last = cases[current].shape[axis] - 1;
  cross[axis] = Math.max(0, Math.min(last, cross[axis] + step));
  draw();
}

function point(name, event) {
  const plane = PLANES[name], canvas = find(name), shape = cases[current].shape, box = fit(plane, canvas);
  const seen = canvas.getBoundingClientRect();
  const x = ((event.clientX - seen.left) * canvas.width / seen.width - box.x) / box.width;
  const y = ((event.clientY - seen.top) * canvas.height / seen.height - box.y) / box.height;
  if (x < 0 || x >= 1 || y < 0 || y >= 1) return;
  active = name;
  cross[plane.across] = shape[plane.across] - 1 - Math.floor(x * shape[plane.across]);
  cross[plane.down] = shape[plane.down] - 1 - Math.floor(y * shape[plane.down]);
  draw();
}

function writeNotes() {
  notes[current] = find("note").value;
  const quote = (text) => `"${String(text).replaceAll('"', '""')}"`;
  const rows = cases.map((one, place) => [one.scan, one.patient, one.label, one.predicted, notes[place]]);
  return [["scan", "patient", "label", "predicted", "note"], ...rows].map((row) => row.map(quote).join(",")).join("\n");
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([writeNotes() + "\n"], { type: "text/csv" }));
  link.download = "notes.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

function press(event) {
  if (event.target.tagName === "TEXTAREA" || event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    ArrowLeft: () => show(current - 1), ArrowRight: () => show(current + 1),
    ArrowUp: () => move(PLANES[active].through, 1), ArrowDown: () => move(PLANES[active].through, -1),
    o: () => find("overlay").click(),
  };
  const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (action === undefined) return;
  event.preventDefault();
  action();
}

for (const name of Object.keys(PLANES)) {
  find(name).addEventListener("pointerdown", (event) => point(name, event));
  find(name).addEventListener("pointermove", (event) => { if (event.buttons === 1) point(name, event); });
  find(name).addEventListener("wheel", (event) => {
    event.preventDefault();
    active = name;
    move(PLANES[name].through, event.deltaY < 0 ? 1 : -1);
  }, { passive: false });
}
find("previous").addEventListener("click", () => show(current - 1));
find("next").addEventListener("click", () => show(current + 1));
find("overlay").addEventListener("change", draw);
find("save").addEventListener("click", save);
document.addEventListener("keydown", press);
if (cases.length > 0) show(0);
