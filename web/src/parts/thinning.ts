/** Points of one curve: `x` grows, `y` may miss values. */
export interface Curve {
  x: ArrayLike<number>;
  y: ArrayLike<number | null>;
}

export interface Thinned {
  x: number[];
  y: (number | null)[];
}

/** The first place in `x` that is not below `value`. */
export function placeOf(x: ArrayLike<number>, value: number): number {
  let low = 0;
  let high = x.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** What can be seen of a curve between `from` and `to` in a picture of `width` pixels: the lowest and the highest
 * point of each pixel's share, in their order, and one point beyond either edge, so that lines leave the picture.
 * Few points come back as they are. Peaks never get lost, however many points there are. */
export function thinned({ x, y }: Curve, from: number, to: number, width: number): Thinned {
  const start = Math.max(0, placeOf(x, from) - 1);
  const end = Math.min(x.length, placeOf(x, to) + 2);
  const shares = Math.max(1, Math.floor(width));
  if (end - start <= 2 * shares) {
    return { x: sliced(x, start, end), y: sliced(y, start, end) };
  }
  const found: Thinned = { x: [], y: [] };
  for (let share = 0; share < shares; share++) {
    const first = start + Math.floor(((end - start) * share) / shares);
    const last = start + Math.floor(((end - start) * (share + 1)) / shares);
    keepExtremes(x, y, first, last, found);
  }
  return found;
}

function keepExtremes(x: ArrayLike<number>, y: ArrayLike<number | null>, first: number, last: number, found: Thinned) {
  let low = -1;
  let high = -1;
  for (let i = first; i < last; i++) {
    const value = y[i];
    if (value == null || !Number.isFinite(value)) continue;
    if (low < 0 || value < y[low]!) low = i;
    if (high < 0 || value > y[high]!) high = i;
  }
  if (low < 0) return;
  const [one, other] = low < high ? [low, high] : [high, low];
  found.x.push(x[one]!);
  found.y.push(y[one]!);
  if (other !== one) {
    found.x.push(x[other]!);
    found.y.push(y[other]!);
  }
}

function sliced<T>(values: ArrayLike<T>, start: number, end: number): T[] {
  const found: T[] = [];
  for (let i = start; i < end; i++) found.push(values[i]!);
  return found;
}
