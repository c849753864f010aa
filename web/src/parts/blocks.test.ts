import { describe, expect, it } from 'vitest';

import { blocks } from './blocks';

describe('markdown that grows', () => {
  it('keeps the blocks that came before as they are', () => {
    const whole = '# One\n\nA *paragraph*.\n\n- first\n- second\n\n```\ncode\n\nmore\n```\n';
    for (let end = 1; end <= whole.length; end++) {
      const before = blocks(whole.slice(0, end)).slice(0, -2);
      expect(blocks(whole).slice(0, before.length)).toEqual(before);
    }
  });
});
