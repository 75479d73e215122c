// Helpers of the page: unpack data, load pictures, create canvases and other elements.
async function inflated(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function picture(source) {
  const sheet = new Image();
  sheet.src = source;
  await sheet.decode();
  return sheet;
}

function canvasOf(label, [h, w], least) {
  const canvas = document.createElement("canvas");
  const scale = Math.max(1, Math.ceil(least / w));
  [canvas.width, canvas.height] = [w * scale, h * scale];
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  return canvas;
}

function element(name, text = "", attributes = {}) {
  const node = document.createElement(name);
  node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}
