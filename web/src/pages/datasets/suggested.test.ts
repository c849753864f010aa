import { describe, expect, it } from 'vitest';

import { suggested } from './suggested';

describe('the name that is suggested for a split dataset', () => {
  it('is one that a dataset may have', () => {
    const names = ['town.jsonl', '客服 对话.csv', '<img src=x>.json', '../../etc', 'x'.repeat(200), '…'];
    for (const name of names.map(suggested)) expect(name).toMatch(/^[\p{L}\p{N}_][\p{L}\p{M}\p{N}_-]{0,63}$/u);
    expect(suggested('town.jsonl')).toBe('town-split');
    expect(suggested('客服 对话.csv')).toBe('客服-对话-split');
  });
});
