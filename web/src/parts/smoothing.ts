/** `values` smoothed as a running mean that forgets: `weight` in [0, 1) is how much of the past stays at each step.
 * The beginning is not drawn towards zero, and what is no number stays where it is and changes nothing. */
export function smoothed(values: ArrayLike<number | null>, weight: number): (number | null)[] {
  const found: (number | null)[] = new Array(values.length);
  let sum = 0;
  let mass = 0;
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (value == null || !Number.isFinite(value)) {
      found[i] = null;
      continue;
    }
    sum = weight * sum + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    found[i] = sum / mass;
  }
  return found;
}

const USUAL = 1000; // points that a picture has room for

/** The weight that looks alike however many points there are: among more, more of them are taken together. */
export function weightFor(chosen: number, points: number): number {
  return points > USUAL ? chosen ** (USUAL / points) : chosen;
}
