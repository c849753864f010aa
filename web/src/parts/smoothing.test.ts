import { describe, expect, it } from 'vitest';

import { smoothed, weightFor } from './smoothing';

describe('smoothing', () => {
  it('changes nothing with no weight', () => {
    expect(smoothed([3, 1, null, 2], 0)).toEqual([3, 1, null, 2]);
  });
  it('begins at the first value and stays within all of them', () => {
    const found = smoothed([4, 2, 4, 2], 0.9);
    expect(found[0]).toBeCloseTo(4);
    expect(found.every((value) => value! >= 2 && value! <= 4)).toBe(true);
  });
  it('steps over what is no number', () => {
    const found = smoothed([4, NaN, 4], 0.5);
    expect(found[1]).toBeNull();
    expect(found[2]).toBeCloseTo(4);
  });
  it('takes more points together where there are more', () => {
    expect(weightFor(0.5, 100)).toBe(0.5);
    expect(weightFor(0.5, 100_000)).toBeCloseTo(0.9931, 3);
    expect(weightFor(0, 100_000)).toBe(0);
  });
});
