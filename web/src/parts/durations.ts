import type { Language } from '../i18n/language';

const UNITS: [number, string, string][] = [
  [86_400, 'd', '天'],
  [3_600, 'h', '小时'],
  [60, 'min', '分'],
  [1, 's', '秒'],
];

/** `seconds` in the two largest units that matter: "1 h 5 min", "1 小时 5 分"; "0 s" for less than half a second. */
export function duration(seconds: number, language: Language): string {
  if (!Number.isFinite(seconds)) return '–';
  let rest = Math.max(0, Math.round(seconds));
  const parts: string[] = [];
  for (const [size, en, zh] of UNITS) {
    if (parts.length === 2) break;
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count > 0) parts.push(`${count} ${language === 'zh' ? zh : en}`);
    else if (parts.length) break;
  }
  return parts.join(' ') || (language === 'zh' ? '0 秒' : '0 s');
}

/** Bytes as people say them: "443 MB". */
export function bytes(count: number): string {
  for (const [size, name] of [[1e12, 'TB'], [1e9, 'GB'], [1e6, 'MB'], [1e3, 'kB']] as const) {
    if (count >= size) return `${(count / size).toFixed(count >= 100 * size || size < 1e9 ? 0 : 1)} ${name}`;
  }
  return `${count} B`;
}

const RELATIVE: [number, Intl.RelativeTimeFormatUnit][] = [
  [86_400 * 365, 'year'],
  [86_400 * 30, 'month'],
  [86_400, 'day'],
  [3_600, 'hour'],
  [60, 'minute'],
  [1, 'second'],
];

/** How long ago `then` was at `now` (milliseconds since 1970): "3 minutes ago", "3分钟前". */
export function ago(then: number, now: number, language: Language): string {
  const seconds = Math.round((then - now) / 1000);
  const format = new Intl.RelativeTimeFormat(language === 'zh' ? 'zh-CN' : 'en', { numeric: 'auto' });
  const [size, unit] = RELATIVE.find(([each]) => Math.abs(seconds) >= each) ?? [1, 'second'];
  return format.format(Math.trunc(seconds / size), unit);
}

/** A time as the server writes it, in milliseconds since 1970; times without a zone are in UTC. */
export function moment(text: string): number {
  return Date.parse(/(?:Z|[+-]\d\d:?\d\d)$/.test(text) ? text : `${text}Z`);
}
