/** A figure in the digits that its name deserves: BLEU is of 100, a perplexity may be huge. */
export function number(name: string, value: number): string {
  if (!Number.isFinite(value)) return '–';
  const digits = name === 'bleu' ? 1 : name === 'perplexity' ? 2 : 3;
  if (Math.abs(value) >= 10_000) return value.toExponential(2);
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace('-', '') : text;
}

/** A p value; never "0". */
export function probability(p: number): string {
  return p < 0.001 ? '< 0.001' : p.toFixed(3);
}
