import type { Money } from './api';

/** Money as it is paid: "$1.20", "CNY 3.50"; small sums keep what matters of them. */
export function paid({ amount, currency }: Pick<Money, 'amount' | 'currency'>): string {
  const digits = amount !== 0 && Math.abs(amount) < 0.1 ? 4 : 2;
  try {
    const style = { style: 'currency', currency: currency.toUpperCase(), minimumFractionDigits: digits, maximumFractionDigits: digits } as const;
    return new Intl.NumberFormat('en', style).format(amount);
  } catch {
    return `${amount.toFixed(digits)} ${currency}`; // no currency that anybody knows
  }
}

export const dollars = (amount: number): string => paid({ amount, currency: 'USD' });
