import { expect, it } from 'vitest';

import { dollars, paid } from './money';

it('says sums, also small ones and of currencies nobody knows', () => {
  expect([0, 1.2, 0.0123, 1234.5].map(dollars)).toEqual(['$0.00', '$1.20', '$0.0123', '$1,234.50']);
  expect(paid({ amount: 3, currency: 'credits!' })).toBe('3.00 credits!');
});
