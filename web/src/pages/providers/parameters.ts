import type { Parameter } from './api';

export type Given = Record<string, string | boolean>;

/** The fields that somebody filled in, as the server wants them; what was left alone is the provider's default. */
export function chosen(parameters: Parameter[], given: Given): Record<string, string | number | boolean> {
  const found: Record<string, string | number | boolean> = {};
  for (const each of parameters) {
    const value = given[each.name];
    if (value === undefined || value === '') continue;
    if (typeof value === 'boolean' || each.type === 'bool') found[each.name] = value === true || value === 'true';
    else if (each.type === 'string') found[each.name] = value;
    else if (Number.isFinite(Number(value))) found[each.name] = Number(value);
  }
  return found;
}
