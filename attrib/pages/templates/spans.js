// A map is 8 bits a pixel: value = low + (high - low) * (code / 255)², so a threshold on values is a threshold on codes,
// and coverage is read off a map's histogram without going over its pixels again.
function spanRules(pixels) {
  const SQUARE = Array.from({ length: 256 }, (_, code) => (code / 255) ** 2);

  // The least code that lies in the span, per rule of attrib.thresholds; 256 where none does. A map that is constant or
  // nowhere positive has no span.
  const RULES = {
    mean: (map) => above(map.histogram.reduce((sum, count, code) => sum + count * SQUARE[code], 0) / pixels),
    max: (map, t) => above((t * map.high - map.low) / (map.high - map.low)),
    // The highest codes that together hold the share q of what is positive; all pixels of a code, so it may be more.
    mass(map, q) {
      const held = Array.from(map.histogram, (count, code) => count * positive(map, code));
      const wanted = q * held.reduce((sum, value) => sum + value, 0);
      let [sum, code] = [0, 256];
      while (code > 0 && sum < wanted && positive(map, code - 1) > 0) sum += held[--code];
      return code;
    },
    // The code after the lower of the two between which the quantile lies.
    quantile(map, q) {
      const wanted = Math.floor(Math.min(q, 1) * (pixels - 1));
      let [below, code] = [0, 0];
      while (below <= wanted) below += map.histogram[code++];
      return code;
    },
    // Between the two classes' means the variance is largest, over 256 levels as scikit-image's.
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
