import { describe, expect, it } from 'vitest';

import { patiently } from './fetched';

describe('fetching a part of the page', () => {
  it('asks again while the server is away', async () => {
    let asked = 0;
    const found = await patiently(async () => {
      asked += 1;
      if (asked < 3) throw new Error('nobody answers');
      return 'here';
    }, [0, 0]);
    expect([found, asked]).toEqual(['here', 3]);
  });
  it('gives up with the last failure', async () => {
    let asked = 0;
    const failing = () => Promise.reject(new Error(`failure ${(asked += 1)}`));
    await expect(patiently(failing, [0])).rejects.toThrow('failure 2');
  });
});
