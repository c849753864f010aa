import { queryOptions } from '@tanstack/react-query';

import type { components } from '../../api/schema/gpt_service';
import { answer, api } from '../../api/typed';

type Schemas = components['schemas'];
type Figures = Schemas['EvaluationFigures'];
export type Interval = Schemas['Figure'];
export type Difference = Schemas['FigureDifference'];
/** The figures of an evaluation that has completed. */
export type Result = Figures & Required<Pick<Figures, 'metrics' | 'count'>>;
export type Evaluation = Schemas['EvaluationDetails'];
/** What one model did with a question. */
export type Said = Schemas['Answered'];
export type Row = Schemas['EvaluationRow'];

/** Whether an evaluation can still change. */
export const live = (found: { status: string }): boolean => found.status === 'queued' || found.status === 'running';

const every = (busy: boolean): number => (busy ? 1_000 : 5_000);

export const evaluationsQuery = (language: string) =>
  queryOptions({
    queryKey: ['evaluations', language],
    queryFn: ({ signal }) => answer(api.GET('/evaluate/history', { params: { query: { limit: 1000 } }, signal })),
    refetchInterval: (query) => every(query.state.data?.history.some(live) ?? false),
  });

export const evaluationQuery = (id: string, language: string) =>
  queryOptions({
    queryKey: ['evaluation', id, language],
    queryFn: ({ signal }) => answer(api.GET('/evaluate/details/{eval_id}', { params: { path: { eval_id: id } }, signal })),
    refetchInterval: (query) => {
      const found = query.state.data;
      return found && !live(found) ? false : every(found !== undefined);
    },
  });

export const rowsQuery = (id: string) =>
  queryOptions({
    queryKey: ['evaluation rows', id],
    queryFn: ({ signal }) =>
      answer(api.GET('/evaluate/outputs/{eval_id}', { params: { path: { eval_id: id }, query: { limit: 10_000 } }, signal })),
    staleTime: Infinity, // an evaluation that has ended never changes
  });

/** The figures, where there are any yet. */
export const resultOf = ({ details }: Evaluation): Result | null => (details.metrics ? (details as Result) : null);

/** What was measured with, where it is known: evaluations made by the document's own path name the model instead. */
export const datasetOf = (found: Evaluation): string | null =>
  found.label && found.label !== found.model_name ? found.label : null;
