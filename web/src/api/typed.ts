import createClient from 'openapi-fetch';

import { pass } from './client';
import type { paths as ChatGateway } from './schema/chat_gateway';
import type { paths as Finetune } from './schema/finetune';
import type { paths as GptService } from './schema/gpt_service';
import type { paths as OpenAi } from './schema/openai';
import type { paths as Platform } from './schema/platform_v1';

/** Every call the server describes: `answer(api.GET('/train/runs/{task_id}', { params: { path: { task_id } } }))`. */
export const api = createClient<GptService & Platform & ChatGateway & Finetune & OpenAi>({ fetch: pass });

/** What the server answered.
 * @throws Failure where nobody answers, or the answer is no success; in the reader's language.
 */
export async function answer<T>(asked: Promise<{ data?: T }>): Promise<T> {
  const { data } = await asked;
  return data as T; // `pass` has thrown where there is none
}
