// A map has 8 bits per pixel: value = low + (high - low) * (code / 255)². A threshold on values is thus a threshold on
// codes, and the histogram of a map gives its coverage.
function spanRules(pixels) {
  const SQUARE = Array.from({ length: 256 }, (_, code) => (code / 255) ** 2);

  // For each rule of attrib.thresholds, the lowest code in the span; 256 if there is none. Maps that are constant or
  // nowhere positive have no span.
  const RULES = {
    mean: (map) => above(map.histogram.reduce((sum, count, code) => sum + count * SQUARE[code], 0) / pixels),
    max: (map, t) => above((t * map.high - map.low) / (map.high - map.low)),
    // The highest codes with the share q of the positive values. A code is taken whole, so the share may be larger.
    mass(map, q) {
      const mass = Array.from(map.histogram, (count, code) => count * positive(map, code));
      const wanted = q * mass.reduce((sum, value) => sum + value, 0);
      let [sum, code] = [0, 256];
      while (code > 0 && sum < wanted && positive(map, code - 1) > 0) sum += mass[--code];
      return code;
    },
    // The quantile lies between two codes; the span begins after the lower one.
    quantile(map, q) {
      const wanted = Math.floor(Math.min(q, 1) * (pixels - 1));
      let [below, code] = [0, 0];
      while (below <= wanted) below += map.histogram[code++];
      return code;
    },
    // The level, one of 256 as in scikit-image, with the largest variance between the two classes.
    otsu(map) {
      const bins = new Float64Array(256);
      const bottom = Math.max(0, map.low);
      const bin = (code) => Math.min(255, Math.floor((256 * (positive(map, code) - bottom)) / (map.high - bottom)));
      map.histogram.forEach((count, code) => (bins[bin(code)] += count));
      const total = bins.reduce((sum, count, level) => sum + count * level, 0);
      let [below, sum, best, cut] = [0, 0, -1, 0];
      for (let level = 0; level < 255; level += 1) {
        below += bins[level];
        sum += bins[level] * level;
        const between = below * (pixels - below) * (sum / below - (total - sum) / (pixels - below)) ** 2;
        if (between > best) [best, cut] = [between, level];
      }
      const level = bottom + ((cut + 0.5) / 256) * (map.high - bottom);
      return SQUARE.findIndex((_, code) => positive(map, code) > level);
    },
  };

  function above(level) {
    const first = SQUARE.findIndex((value) => value > level);
    return first < 0 ? 256 : first;
  }

  const positive = (map, code) => Math.max(0, map.low + (map.high - map.low) * SQUARE[code]);

  const isEmpty = (map) => !(map.high > map.low) || !(map.high > 0);

  return { SQUARE, RULES, positive, isEmpty };
}
