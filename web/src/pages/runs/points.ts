import { useEffect, useState } from 'react';

import { Failure } from '../../api/client';
import type { components } from '../../api/schema/gpt_service';
import { answer, api } from '../../api/typed';
import { live } from './api';

type Answer = components['schemas']['RunCurves'];

/** Columns of a curve's points, each as long as `step`, which has no gaps. */
export type Columns = Answer['training'] & { step: number[] };

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
  const found: Answer['training'] = {};
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
      const next = await answer(api.GET('/train/metrics/{task_id}', { params: { path: { task_id: id }, query: { after } }, signal: left }));
      const [training, validation] = [next.training as Columns, next.validation as Columns];
      const changed = training.step.length > 0 || validation.step.length > 0;
      if (changed || !known.whole || known.failure) {
        known = {
          training: appended(known.training, training),
          validation: appended(known.validation, validation),
          whole: !next.more,
          failure: null,
        };
        told(known);
      }
      if (next.more) continue;
      going = live(next);
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
