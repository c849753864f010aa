import { expect, it } from 'vitest';

import { appended } from './points';

it('appends what is new, once, however it comes', () => {
  const known = { step: [1, 2], loss: [5, 4] };
  expect(appended(known, { step: [2, 3], loss: [4, 3] })).toEqual({ step: [1, 2, 3], loss: [5, 4, 3] });
  expect(appended(known, { step: [1, 2], loss: [5, 4] })).toBe(known);
});

it('keeps columns as long as the steps where a column appears late', () => {
  const known = { step: [1], loss: [5] };
  expect(appended(known, { step: [2], loss: [4], margin: [0.5] })).toEqual(
    { step: [1, 2], loss: [5, 4], margin: [null, 0.5] },
  );
});
