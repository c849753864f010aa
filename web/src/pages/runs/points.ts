import { useEffect, useState } from 'react';

import { Failure, get } from '../../api/client';

/** Columns of a curve's points, each as long as `step`. */
export type Columns = Record<string, (number | null)[]> & { step: number[] };

interface Answer {
  status: string;
  training: Columns;
  validation: Columns;
  more: boolean;
}

export interface Points {
  training: Columns;
  validation: Columns;
  /** whether all that there was has come */
  whole: boolean;
  failure: Failure | null;
}

const none = (): Columns => ({ step: [], loss: [] });
export const NOTHING: Points = { training: none(), validation: none(), whole: false, failure: null };

/** `known` followed by the points of `next` after its last step; columns that either lacks hold null there. */
export function appended(known: Columns, next: Columns): Columns {
  const last = known.step.at(-1) ?? 0;
  const first = next.step.findIndex((step) => step > last);
  if (first < 0) return known;
  const found: Record<string, (number | null)[]> = {};
  for (const name of new Set([...Object.keys(known), ...Object.keys(next)])) {
    const before = known[name] ?? known.step.map(() => null);
    const after = next[name] ?? next.step.map(() => null);
    found[name] = before.concat(first === 0 ? after : after.slice(first));
  }
  return found as Columns;
}

/** The curves of runs, by their ids; while one goes on its new points are asked for every second. */
export function usePoints(ids: string[]): Record<string, Points> {
  const [points, setPoints] = useState<Record<string, Points>>({});
  const key = ids.join(',');
  useEffect(() => {
    const left = new AbortController();
    setPoints({});
    for (const id of key ? key.split(',') : []) {
      void follow(id, left.signal, (next) => setPoints((known) => ({ ...known, [id]: next })));
    }
    return () => left.abort();
  }, [key]);
  return points;
}

async function follow(id: string, left: AbortSignal, told: (points: Points) => void): Promise<void> {
  let known = NOTHING;
  while (!left.aborted) {
    let going = true;
    try {
      const after = known.training.step.at(-1) ?? 0;
      const answer = await get<Answer>(`/train/metrics/${encodeURIComponent(id)}?after=${after}`, left);
      const changed = answer.training.step.length > 0 || answer.validation.step.length > 0;
      if (changed || !known.whole || known.failure) {
        known = {
          training: appended(known.training, answer.training),
          validation: appended(known.validation, answer.validation),
          whole: !answer.more,
          failure: null,
        };
        told(known);
      }
      if (answer.more) continue;
      going = answer.status === 'queued' || answer.status === 'running';
    } catch (error) {
      if (left.aborted) return;
      known = { ...known, failure: error instanceof Failure ? error : new Failure(0, String(error)) };
      told(known);
      if (known.failure?.status === 404) return;
    }
    if (!going) return;
    await new Promise((resolve) => setTimeout(resolve, document.hidden ? 5_000 : 1_000));
  }
}
