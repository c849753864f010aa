import { call, get, post, send } from '../../api/client';

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

export interface HeldKey {
  provider: string;
  source: 'environment' | 'stored';
  set_by: string | null;
  set_at: string | null;
  hint: string | null;
  opens: boolean;
}

export interface ChatModel {
  id: string;
  name: string;
  context_length?: number;
  prompt_usd_per_million?: number;
  completion_usd_per_million?: number;
}

export interface ChatService {
  service: string;
  available: boolean;
  reason: string | null;
  models: ChatModel[];
}

export interface TuningModel {
  id: string;
  name: string;
  data_strategies_supported: string[];
  context_length: number | null;
  limits: Record<string, [number, number]>;
}

export interface TuningProvider {
  id: string;
  provider_id: string;
  name: string;
  enabled: boolean;
  models: TuningModel[];
  message: string | null;
}

export interface Parameter {
  name: string;
  type: 'string' | 'int' | 'float' | 'bool';
  description: string;
  default: string | number | boolean | null;
  min: number | null;
  max: number | null;
  choices: (string | number)[];
}

export interface Money {
  amount: number;
  currency: string;
  estimated: boolean;
}

export interface Job {
  id: string;
  name: string;
  description: string | null;
  provider: string;
  model_name: string;
  provider_id: string | null;
  provider_status: string | null;
  fine_tune_model_id: string | null;
  dataset_path: string | null;
  parameters: Record<string, string | number | boolean>;
  data_strategy: string;
  status: 'pending' | 'running' | 'completed' | 'failed' | 'cancelled' | 'unknown';
  status_message: string | null;
  error: string | null;
  progress: { percent: number; step: number; total_steps: number; loss: number | null; seconds_left: number | null };
  cost: Money | null;
  trained_tokens: number | null;
  events: { at: string | null; level: string; message: string; step: number | null }[];
  deployment: Record<string, unknown> | null;
  warnings: string[];
  cancel_requested: boolean;
  created_at: string;
  created_by: string;
  finished_at: string | null;
}

export interface Deployment {
  id: string;
  model: string;
  chat_model: string;
  ready: boolean;
  state: string;
}

export interface Order {
  name?: string;
  provider: string;
  model_name: string;
  dataset_path: string;
  split_name?: string;
  system_message?: string;
  parameters: Record<string, string | number | boolean>;
}

export interface Estimate {
  cost: Money | null;
  tokens: number | null;
  steps: number | null;
  reason: string | null;
}

export interface Spent {
  service: string;
  model: string;
  answers: number;
  prompt_tokens: number;
  completion_tokens: number;
  cost_usd: number;
}

export interface Spending {
  models: Spent[];
  total_cost_usd: number;
}

const within = (id: string): string => `/api/finetune/jobs/${encodeURIComponent(id)}`;

export const keysHeld = async (signal?: AbortSignal): Promise<HeldKey[]> =>
  (await get<{ keys: HeldKey[] }>('/api/chat/keys', signal)).keys;
export const setKey = (provider: string, key: string): Promise<unknown> => call('PUT', `/api/chat/keys/${provider}`, { key });
export const forgetKey = (provider: string): Promise<unknown> => call('DELETE', `/api/chat/keys/${provider}`);

export const chatServices = async (signal?: AbortSignal): Promise<ChatService[]> =>
  (await get<{ services: ChatService[] }>('/api/chat/models', signal)).services;
export const tuningProviders = async (signal?: AbortSignal): Promise<TuningProvider[]> =>
  (await get<{ providers: TuningProvider[] }>('/api/finetune/models', signal)).providers;
export const parametersOf = async (provider: string, signal?: AbortSignal): Promise<Parameter[]> =>
  (await get<{ parameters: Parameter[] }>(`/api/finetune/parameters/${encodeURIComponent(provider)}`, signal)).parameters;

/** Every job, the newest first; `ask` asks the providers now. */
export const jobs = async (ask: boolean, signal?: AbortSignal): Promise<Job[]> =>
  (await get<{ jobs: Job[] }>(`/api/finetune/jobs${ask ? '?update_status=true' : ''}`, signal)).jobs;
export const estimate = async (order: Order): Promise<Estimate> =>
  (await post<{ estimate: Estimate }>('/api/finetune/jobs/estimate', order)).estimate;
export const cancel = (id: string): Promise<unknown> => post(`${within(id)}/cancel`);
export const forget = (id: string): Promise<unknown> => call('DELETE', within(id));
export const deploy = (id: string): Promise<unknown> => post(`${within(id)}/deploy`, { confirm: true });
export const undeploy = (id: string): Promise<unknown> => post(`${within(id)}/undeploy`);
export const deployment = async (id: string, signal?: AbortSignal): Promise<Deployment | null> =>
  (await get<{ deployment: Deployment | null }>(`${within(id)}/deployment`, signal)).deployment;
export const fetchAdapter = (id: string): Promise<{ path: string; message: string | null }> => post(`${within(id)}/adapter`);
export const spending = (signal?: AbortSignal): Promise<Spending> => get('/api/chat/usage', signal);

/** Make the job. However often it is sent, `once` makes it a single one. */
export async function create(order: Order, once: string): Promise<Job> {
  const answer = await send('/api/finetune/jobs', {
    method: 'POST',
    body: JSON.stringify(order),
    headers: { 'Content-Type': 'application/json', 'Idempotency-Key': once },
  });
  return ((await answer.json()) as { job: Job }).job;
}
