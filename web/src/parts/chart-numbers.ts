/** A number in as few digits as say it. */
export function short(value: number): string {
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1000) return value.toLocaleString('en', { maximumFractionDigits: 0 });
  return size < 0.001 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}
