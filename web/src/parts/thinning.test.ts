import { describe, expect, it } from 'vitest';

import { placeOf, thinned } from './thinning';

const long = Array.from({ length: 100_000 }, (_, i) => i + 1);

describe('thinning', () => {
  it('finds the place of a value', () => {
    expect([0, 1, 1.5, 3, 9].map((value) => placeOf([1, 2, 3], value))).toEqual([0, 0, 1, 2, 3]);
  });
  it('leaves few points as they are', () => {
    expect(thinned({ x: [1, 2, 3], y: [5, null, 4] }, 0, 9, 100)).toEqual({ x: [1, 2, 3], y: [5, null, 4] });
  });
  it('keeps every peak of a hundred thousand points in no more than two a pixel', () => {
    const y = long.map((step) => (step === 70_003 ? 99 : step === 12 ? -7 : Math.sin(step)));
    const found = thinned({ x: long, y }, 0, 200_000, 800);
    expect(found.x.length).toBeLessThanOrEqual(1600);
    expect(found.y[found.x.indexOf(70_003)]).toBe(99);
    expect(found.y[found.x.indexOf(12)]).toBe(-7);
    expect([...found.x].sort((a, b) => a - b)).toEqual(found.x);
  });
  it('shows what is near, whole, with a point beyond either edge', () => {
    expect(thinned({ x: long, y: long }, 500, 503, 800).x).toEqual([499, 500, 501, 502, 503, 504]);
  });
  it('leaves out what is no number', () => {
    const y = long.map((step) => (step % 2 ? NaN : step));
    expect(thinned({ x: long, y }, 0, 200_000, 100).y.every((value) => Number.isFinite(value))).toBe(true);
  });
});
