import type { Message, Turn, Verdict } from './conversation';

/** One blind judgement, with all that is needed to train on it. */
export interface Vote {
  at: string;
  left: string;
  right: string;
  verdict: Exclude<Verdict, 'skipped'>;
  prompt: Message[];
  leftText: string;
  rightText: string;
}

/** What was said of two models; `first` comes before `second` in the alphabet. */
export interface Tally {
  first: string;
  second: string;
  firstWins: number;
  secondWins: number;
  ties: number;
  bad: number;
}

export interface Interval {
  share: number;
  low: number;
  high: number;
}

/** The share of `wins` among `trials` with its 95% Wilson interval; null where nothing was decided. */
export function wilson(wins: number, trials: number, z = 1.959963984540054): Interval | null {
  if (trials <= 0) return null;
  const share = wins / trials;
  const bottom = 1 + (z * z) / trials;
  const middle = (share + (z * z) / (2 * trials)) / bottom;
  const half = (z / bottom) * Math.sqrt((share * (1 - share)) / trials + (z * z) / (4 * trials * trials));
  return { share, low: Math.max(0, middle - half), high: Math.min(1, middle + half) };
}

/** Votes by the two models they were about, the most judged first. A model against itself says nothing. */
export function tallies(votes: readonly Vote[]): Tally[] {
  const found = new Map<string, Tally>();
  for (const vote of votes) {
    if (vote.left === vote.right) continue;
    const [first, second] = [vote.left, vote.right].sort() as [string, string];
    const key = JSON.stringify([first, second]);
    const tally = found.get(key) ?? { first, second, firstWins: 0, secondWins: 0, ties: 0, bad: 0 };
    found.set(key, tally);
    if (vote.verdict === 'tie') tally.ties += 1;
    else if (vote.verdict === 'bad') tally.bad += 1;
    else if ((vote.verdict === 'left' ? vote.left : vote.right) === first) tally.firstWins += 1;
    else tally.secondWins += 1;
  }
  return [...found.values()].sort((one, other) => total(other) - total(one));
}

const total = (tally: Tally): number => tally.firstWins + tally.secondWins + tally.ties + tally.bad;

/** Whether the interval leaves no doubt about which of the two is preferred. */
export const decided = (found: Interval): boolean => found.low > 0.5 || found.high < 0.5;

/** The votes that preferred one answer, as lines that preference training (`objective: dpo`) reads. */
export function preferencePairs(votes: readonly Vote[]): string {
  const lines: string[] = [];
  for (const vote of votes) {
    if (vote.verdict !== 'left' && vote.verdict !== 'right') continue;
    const [chosen, rejected] =
      vote.verdict === 'left' ? [vote.leftText, vote.rightText] : [vote.rightText, vote.leftText];
    if (!chosen.trim() || !rejected.trim() || chosen === rejected) continue;
    lines.push(JSON.stringify({ prompt: vote.prompt, chosen, rejected }));
  }
  return lines.map((line) => `${line}\n`).join('');
}

/** The vote that `verdict` on `turn` is; null where it judges nothing.
 * @param prompt what both models were shown.
 */
export function voteOn(turn: Turn, verdict: Verdict, prompt: Message[], at: Date): Vote | null {
  const [left, right] = turn.answers;
  if (verdict === 'skipped' || !left || !right) return null;
  return {
    at: at.toISOString(), left: left.spoke ?? left.model, right: right.spoke ?? right.model, verdict, prompt,
    leftText: left.text, rightText: right.text,
  };
}
