import { describe, expect, it } from 'vitest';

import { ago, bytes, duration, moment } from './durations';

describe('durations', () => {
  it('says the two units that matter', () => {
    expect([0, 0.4, 59.6, 61, 3600, 3905, 90_000, 86_400 + 61].map((each) => duration(each, 'en'))).toEqual(
      ['0 s', '0 s', '1 min', '1 min 1 s', '1 h', '1 h 5 min', '1 d 1 h', '1 d'],
    );
    expect(duration(3905, 'zh')).toBe('1 小时 5 分');
    expect(duration(Infinity, 'en')).toBe('–');
  });
  it('says bytes', () => {
    expect([12, 464_732_160, 7_000_000_000, 120e9].map(bytes)).toEqual(['12 B', '465 MB', '7.0 GB', '120 GB']);
  });
  it('says how long ago something was', () => {
    expect(ago(0, 180_000, 'en')).toBe('3 minutes ago');
    expect(ago(0, 180_000, 'zh')).toBe('3分钟前');
    expect(ago(0, 200, 'en')).toBe('now');
  });
  it('reads times without a zone as UTC', () => {
    expect(moment('1970-01-01T00:01:00')).toBe(60_000);
    expect(moment('1970-01-01T00:01:00+00:00')).toBe(60_000);
  });
});
