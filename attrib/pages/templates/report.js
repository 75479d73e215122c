"use strict";
// Browse the report's images: find and sort them, and draw them with maps and spans (with spans.js, elements.js).
(async () => {
  const page = JSON.parse(document.getElementById("images-data").textContent);
  const kinds = ["clean", page.attack];
  const images = page.index.length;
  const [height, width] = page.size;
  const pixels = height * width;
  const { SQUARE, RULES, positive, isEmpty } = spanRules(pixels);
  const SETS = {
    consistent: "right, also under attack", inconsistent: page.searches.turned, "clean-wrong": page.searches.wrong,
  };
  const MARKS = { consistent: "●", inconsistent: "◐", "clean-wrong": "○" };
  const OUTLINE = { casing: "#fff", line: "#00304f" }; // visible on dark and on bright images
  const DIMMED = [0, 0, 0, 140];
  const OPACITY = 0.7;
  const PALETTE = page.palette.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const $ = (id) => document.getElementById(id);

  let codes, sheets;
  try {
    codes = await inflated(page.maps);
    sheets = await Promise.all(page.sheets.map(picture));
  } catch (error) {
    $("images-problem").textContent = `This browser cannot unpack the images (${error}); a newer one can.`;
    $("images-problem").hidden = false;
    return;
  }

  // maps[model][kind][image], with kind 0: clean, 1: attacked. A map is its codes, histogram and extremes.
  const maps = page.models.map((_, m) => kinds.map((_, k) => page.index.map((_, i) => map(m, k, i))));

  function map(m, k, i) {
    const at = ((m * kinds.length + k) * images + i) * pixels;
    const own = codes.subarray(at, at + pixels);
    const histogram = new Uint32Array(256);
    for (const code of own) histogram[code] += 1;
    return { codes: own, histogram, low: page.low[m][k][i], high: page.high[m][k][i] };
  }

  function threshold(map) {
    if (isEmpty(map)) return 256;
    return RULES[$("rule").value](map, Number($("level").value));
  }

  function coverage(map) {
    let inside = 0;
    for (let code = threshold(map); code < 256; code += 1) inside += map.histogram[code];
    return inside / pixels;
  }

  const percent = (value) => `${(100 * value).toFixed(1)} %`;
  const className = (k) => page.classes[k] ?? String(k);
  const short = (value) => Number(value.toPrecision(3)).toString();

  // --- drawing -----------------------------------------------------------------------------------------------------

  // Fill the canvas with image i of sheet s (0: clean, m + 1: attacked on model m).
  function drawPicture(canvas, s, i) {
    const [h, w] = page.sheetSize;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    const [x, y] = [(i % page.columns) * w, Math.floor(i / page.columns) * h];
    context.drawImage(sheets[s], x, y, w, h, 0, 0, canvas.width, canvas.height);
  }

  // Draw a colour per pixel of the map, enlarged without smoothing; colour(code) is [r, g, b, a].
  function drawPixels(canvas, map, colour) {
    const small = new OffscreenCanvas(width, height);
    const data = new ImageData(width, height);
    const table = SQUARE.map((_, code) => colour(code));
    map.codes.forEach((code, at) => data.data.set(table[code], 4 * at));
    small.getContext("2d").putImageData(data, 0, 0);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
  }

  // Brightness is the square root of the value, as in the figures; over an image, opacity is, too.
  function drawMap(canvas, map, top, over = false) {
    drawPixels(canvas, map, (code) => {
      const level = top > 0 ? Math.min(255, Math.round(255 * Math.sqrt(positive(map, code) / top))) : 0;
      return [...PALETTE[level], over ? OPACITY * level : 255];
    });
  }

  function drawDimmed(canvas, map) {
    const first = threshold(map);
    drawPixels(canvas, map, (code) => (code >= first ? [0, 0, 0, 0] : DIMMED));
  }

  // Draw the border between the span's pixels and all others, also along the edge of the image.
  function drawOutline(canvas, map) {
    const first = threshold(map);
    const [x, y] = [canvas.width / width, canvas.height / height];
    const inside = (row, column) =>
      row >= 0 && row < height && column >= 0 && column < width && map.codes[row * width + column] >= first;
    const context = canvas.getContext("2d");
    context.beginPath();
    for (let row = 0; row <= height; row += 1) {
      for (let column = 0; column <= width; column += 1) {
        if (inside(row, column) !== inside(row - 1, column)) {
          context.moveTo(column * x, row * y);
          context.lineTo((column + 1) * x, row * y);
        }
        if (inside(row, column) !== inside(row, column - 1)) {
          context.moveTo(column * x, row * y);
          context.lineTo(column * x, (row + 1) * y);
        }
      }
    }
    context.lineCap = "square";
    for (const [part, share] of [["casing", 1 / 50], ["line", 1 / 110]]) {
      context.strokeStyle = OUTLINE[part];
      context.lineWidth = Math.max(part === "casing" ? 3 : 1.5, canvas.width * share);
      context.stroke();
    }
  }

  // --- the grid ----------------------------------------------------------------------------------------------------

  page.classes.forEach((name, k) => {
    if (page.label.includes(k)) $("class-filter").append(element("option", name, { value: k }));
  });
  // The searches: text of the option, and whether image i matches under model m.
  const FINDS = {
    "": ["all", () => true],
    right: ["right on the clean image", (m, i) => page.sets[m][i] !== "clean-wrong"],
    ...Object.fromEntries(Object.entries(SETS).map(([set, text]) => [set, [text, (m, i) => page.sets[m][i] === set]])),
    empty: [page.searches.empty, (m, i) => maps[m].some((ofKind) => isEmpty(ofKind[i]))],
  };

  function addFind(name, models) {
    const select = element("select", "", { "data-models": models });
    for (const [value, [text, is]] of Object.entries(FINDS)) {
      const count = page.index.filter((_, i) => models.some((m) => is(m, i))).length;
      select.append(element("option", `${text} (${count})`, { value }));
    }
    const label = element("label", `${name} `);
    label.append(select);
    $("finds").append(label);
  }

  if (page.models.length > 1) addFind("any model", Object.keys(page.models));
  else $("sort").querySelector("[value=disagreement]").remove();
  page.models.forEach((name, m) => {
    $("model").append(element("option", name, { value: m }));
    addFind(name, [m]);
  });
  const [rule, parameter] = page.threshold.split(":");
  $("rule").value = rule;
  if (parameter) $("level").value = parameter;

  const marks = Object.entries(MARKS).map(([set, mark]) => `${mark} ${SETS[set]}`);
  $("key").textContent = `Marks, one per model (${page.models.join(", ")}): ${marks.join(", ")}.`;

  const thumbs = page.index.map((index, i) => {
    const item = element("li");
    const button = element("button", "", { type: "button", class: "thumb", "data-index": index, tabindex: -1 });
    const canvas = canvasOf("", page.sheetSize, 128);
    const facts = element("span", "", { class: "facts" });
    const marks = element("span", "", { class: "marks" });
    page.sets.forEach((sets, m) => {
      const mark = element("i", MARKS[sets[i]], { title: `${page.models[m]}: ${SETS[sets[i]]}` });
      mark.style.color = page.colours[m % page.colours.length];
      marks.append(mark);
    });
    button.append(canvas, facts, marks);
    button.addEventListener("click", () => open(i));
    item.append(button);
    return { item, button, canvas, facts, i };
  });
  let shown = [];

  function fits(i) {
    if ($("class-filter").value !== "" && page.label[i] !== Number($("class-filter").value)) return false;
    return [...document.querySelectorAll("#finds select")].every((select) =>
      select.dataset.models.split(",").some((m) => FINDS[select.value][1](Number(m), i)),
    );
  }

  function update() {
    const m = Number($("model").value);
    const coverages = maps.map((ofModel) => ofModel[0].map(coverage));
    const covers = coverages[m];
    const disagreement = page.index.map((_, i) => {
      const values = coverages.map((ofModel) => ofModel[i]);
      return Math.max(...values) - Math.min(...values);
    });
    $("level").parentElement.hidden = RULES[$("rule").value].length < 2;
    $("level-value").textContent = Number($("level").value).toFixed(2);
    const [sign, by] = {
      index: [0, covers], falling: [-1, covers], rising: [1, covers], disagreement: [-1, disagreement],
    }[$("sort").value];
    const mark = by === disagreement ? "Δ " : "";
    const order = [...thumbs].sort((a, b) => sign * (by[a.i] - by[b.i]) || page.index[a.i] - page.index[b.i]);
    shown = order.filter((thumb) => fits(thumb.i));
    for (const thumb of order) thumb.item.hidden = true;
    for (const thumb of shown) {
      thumb.item.hidden = false;
      drawPicture(thumb.canvas, 0, thumb.i);
      const own = maps[m][0][thumb.i];
      if ($("show").value === "span") drawDimmed(thumb.canvas, own), drawOutline(thumb.canvas, own);
      if ($("show").value.startsWith("map")) drawMap(thumb.canvas, own, own.high, $("show").value === "map-over");
      thumb.facts.replaceChildren(element("b", page.index[thumb.i]), element("i", mark + percent(by[thumb.i])));
      thumb.button.dataset.coverage = covers[thumb.i];
      const sets = page.models.map((name, at) => `${name} ${SETS[page.sets[at][thumb.i]]}`).join(", ");
      thumb.button.setAttribute(
        "aria-label",
        `Image ${page.index[thumb.i]}, ${className(page.label[thumb.i])}; covered ${percent(covers[thumb.i])}; ${sets}`,
      );
    }
    $("grid").append(...order.map((thumb) => thumb.item));
    const mean = shown.reduce((sum, thumb) => sum + covers[thumb.i], 0) / shown.length;
    const covered = shown.length ? `; ${page.models[m]} covers ${percent(mean)} of them on average` : "";
    $("count").textContent = `${shown.length} of ${images} images${covered}`;
    reach(shown.find((thumb) => thumb.button.tabIndex === 0) ?? shown[0]);
    if ($("detail").open) detail();
  }

  // One image at a time can be reached with Tab; the arrow keys go from there.
  function reach(thumb) {
    for (const other of thumbs) other.button.tabIndex = other === thumb ? 0 : -1;
  }

  $("grid").addEventListener("keydown", (event) => {
    const at = shown.findIndex((thumb) => thumb.button === document.activeElement);
    if (at < 0) return;
    const top = shown[0].item.offsetTop;
    const row = shown.findIndex((thumb) => thumb.item.offsetTop > top);
    const columns = row < 0 ? shown.length : row;
    const to = {
      ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - columns, ArrowDown: at + columns, Home: 0,
      End: shown.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const thumb = shown[to];
    if (!thumb) return;
    reach(thumb);
    thumb.button.focus();
  });

  // --- one image under every model ---------------------------------------------------------------------------------

  let current = 0;

  function open(i) {
    current = i;
    reach(thumbs[i]);
    detail();
    if (!$("detail").open) $("detail").showModal();
  }

  function detail() {
    const i = current;
    $("detail-title").textContent = `Image ${page.index[i]}: ${className(page.label[i])}`;
    const top = Math.max(...maps.flatMap((ofModel) => ofModel.map((ofKind) => ofKind[i].high)));
    const shared = $("scale").value === "shared";
    $("colourbar-top").textContent = shared ? `${short(top)}, in the units of the score explained` : "each map's highest value";
    $("detail-models").replaceChildren(
      ...page.models.map((name, m) => {
        const card = element("article", "", { "data-model": m });
        const heading = element("h3");
        const dot = element("i", "", { class: "dot" });
        dot.style.background = page.colours[m % page.colours.length];
        heading.append(dot, name);
        card.append(heading);
        kinds.forEach((kind, k) => card.append(views(name, m, kind, k, i, shared ? top : maps[m][k][i].high)));
        return card;
      }),
    );
    const at = shown.findIndex((thumb) => thumb.i === i);
    $("previous").disabled = at <= 0;
    $("next").disabled = at < 0 || at === shown.length - 1;
  }

  // The image with the span's outline, beside the map, of one model and kind.
  function views(name, m, kind, k, i, top) {
    const own = maps[m][k][i];
    const figure = element("figure");
    const pair = element("div", "", { class: "pair" });
    const outlined = canvasOf(`Image ${page.index[i]}, ${kind}, the span of ${name} outlined`, page.size, 320);
    drawPicture(outlined, k === 0 ? 0 : m + 1, i);
    drawOutline(outlined, own);
    const over = $("over").checked;
    const heat = canvasOf(`Map of ${name}, ${kind}${over ? ", over the image" : ""}`, page.size, 320);
    if (over) drawPicture(heat, k === 0 ? 0 : m + 1, i);
    drawMap(heat, own, top, over);
    pair.append(outlined, heat);
    const prediction = page.prediction[m][k][i];
    const verdict = prediction === page.label[i] ? "right" : "wrong";
    const caption = element("figcaption", `${kind}: predicts ${className(prediction)}, ${verdict}; covers `);
    caption.append(element("span", percent(coverage(own)), { class: "covers", "data-coverage": coverage(own) }));
    if (!shared()) caption.append(`; highest ${short(own.high)}`);
    figure.append(pair, caption);
    return figure;
  }

  function shared() {
    return $("scale").value === "shared";
  }

  function step(by) {
    const thumb = shown[shown.findIndex((candidate) => candidate.i === current) + by];
    if (thumb) open(thumb.i);
  }

  // Move the focus here: the browser would return it to the image opened first, and it reports a closed dialog so late
  // that the next key may already have moved the focus.
  function shut() {
    $("detail").close();
    thumbs[current].button.focus();
  }

  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", shut);
  $("scale").addEventListener("change", detail);
  $("over").addEventListener("change", detail);
  $("detail").addEventListener("cancel", (event) => {
    event.preventDefault();
    shut();
  });
  $("detail").addEventListener("click", (event) => {
    if (event.target === $("detail")) shut(); // a click beside the dialog
  });
  $("detail").addEventListener("keydown", (event) => {
    if (event.target.matches("select")) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });

  const bar = $("colourbar").getContext("2d");
  PALETTE.forEach((_, at) => {
    // The bar is linear in the value; its colour follows the square root, as in the maps.
    bar.fillStyle = `rgb(${PALETTE[Math.round(255 * Math.sqrt(at / 255))]})`;
    bar.fillRect(at, 0, 1, 1);
  });

  $("controls").addEventListener("change", update);
  $("level").addEventListener("input", update);
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("controls").hidden = false;
  update();
})();
