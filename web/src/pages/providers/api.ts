import type { components as Chat } from '../../api/schema/chat_gateway';
import type { components as Finetune } from '../../api/schema/finetune';
import { answer, api } from '../../api/typed';

/** Who tunes or answers: its name in the paths of keys, as `GET /api/finetune/models` says it, and in `GET /api/chat/models`. */
export interface Provider {
  key: 'openrouter' | 'together_ai' | 'fireworks_ai';
  label: string;
  setting: string;
  address: string;
  tunes: boolean;
}

export const PROVIDERS: Provider[] = [
  { key: 'together_ai', label: 'Together AI', setting: 'TOGETHER_API_KEY', address: 'https://api.together.ai/settings/api-keys', tunes: true },
  { key: 'fireworks_ai', label: 'Fireworks AI', setting: 'FIREWORKS_API_KEY', address: 'https://app.fireworks.ai/settings/users/api-keys', tunes: true },
  { key: 'openrouter', label: 'OpenRouter', setting: 'OPENROUTER_API_KEY', address: 'https://openrouter.ai/settings/keys', tunes: false },
];

/** What people call the provider of that id (`TOGETHER_AI`); one that nobody here knows by its id. */
export const labelOf = (id: string): string => PROVIDERS.find((each) => each.key === id.toLowerCase())?.label ?? id;

export type HeldKey = Chat['schemas']['KeyShown'];
export type Parameter = Finetune['schemas']['ParameterShown'];
export type Money = Finetune['schemas']['CostShown'];
export type Job = Finetune['schemas']['JobShown'];
export type Order = Finetune['schemas']['JobRequest'];
export type Estimate = Finetune['schemas']['EstimateShown'];

const job = (job_id: string) => ({ params: { path: { job_id } } });

export const keysHeld = async (signal: AbortSignal) => (await answer(api.GET('/api/chat/keys', { signal }))).keys;
export const setKey = (provider: string, key: string) =>
  answer(api.PUT('/api/chat/keys/{provider}', { params: { path: { provider } }, body: { key } }));
export const forgetKey = (provider: string) => answer(api.DELETE('/api/chat/keys/{provider}', { params: { path: { provider } } }));

export const chatServices = async (signal: AbortSignal) => (await answer(api.GET('/api/chat/models', { signal }))).services;
export const tuningProviders = async (signal: AbortSignal) =>
  (await answer(api.GET('/api/finetune/models', { signal }))).providers;
export const parametersOf = async (provider: string, signal: AbortSignal) =>
  (await answer(api.GET('/api/finetune/parameters/{provider}', { params: { path: { provider } }, signal }))).parameters;

/** Every job, the newest first; `ask` asks the providers now. */
export const jobs = async (ask: boolean, signal: AbortSignal | null = null) =>
  (await answer(api.GET('/api/finetune/jobs', { params: { query: ask ? { update_status: true } : {} }, signal }))).jobs;
export const estimate = async (body: Order) => (await answer(api.POST('/api/finetune/jobs/estimate', { body }))).estimate;
export const cancel = (id: string) => answer(api.POST('/api/finetune/jobs/{job_id}/cancel', job(id)));
export const forget = (id: string) => answer(api.DELETE('/api/finetune/jobs/{job_id}', job(id)));
export const deploy = (id: string) => answer(api.POST('/api/finetune/jobs/{job_id}/deploy', { ...job(id), body: { confirm: true } }));
export const undeploy = (id: string) => answer(api.POST('/api/finetune/jobs/{job_id}/undeploy', job(id)));
export const deployment = async (id: string, signal: AbortSignal) =>
  (await answer(api.GET('/api/finetune/jobs/{job_id}/deployment', { ...job(id), signal }))).deployment;
export const fetchAdapter = (id: string) => answer(api.POST('/api/finetune/jobs/{job_id}/adapter', job(id)));
export const spending = (signal: AbortSignal) => answer(api.GET('/api/chat/usage', { signal }));

/** Make the job. However often it is sent, `once` makes it a single one. */
export const create = async (body: Order, once: string): Promise<Job> =>
  (await answer(api.POST('/api/finetune/jobs', { body, headers: { 'Idempotency-Key': once } }))).job;
