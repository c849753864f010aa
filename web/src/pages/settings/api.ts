import { carry } from '../../api/client';
import type { components } from '../../api/schema/gpt_service';
import { answer, api } from '../../api/typed';

type Shapes = components['schemas'];
export type User = Shapes['UserShown'];
export type Key = Shapes['KeyShown'];
export type MadeKey = Shapes['MadeKey'];

export const USERS = ['people', 'users'];
export const KEYS = ['people', 'keys'];

export const usersQuery = {
  queryKey: USERS,
  queryFn: async ({ signal }: { signal: AbortSignal }): Promise<User[]> => (await answer(api.GET('/users', { signal }))).users,
};

/** API keys: one's own, or those of everybody. */
export const keysQuery = (everybody: boolean, revoked: boolean) => ({
  queryKey: [...KEYS, everybody, revoked],
  queryFn: async ({ signal }: { signal: AbortSignal }): Promise<Key[]> =>
    (await answer(api.GET('/keys', { params: { query: { everybody, revoked } }, signal }))).keys,
});

export const addUser = (name: string, password: string, admin: boolean) =>
  answer(api.POST('/users', { body: { name, password, admin } }));

export const letIn = (name: string, disabled: boolean) =>
  answer(api.PATCH('/users/{name}', { params: { path: { name } }, body: { disabled } }));

export const setPassword = (name: string, password: string) =>
  answer(api.PUT('/users/{name}/password', { params: { path: { name } }, body: { password } }));

/** Another password for who is logged in; this tab goes on with the token that comes with it. */
export async function changePassword(old_password: string, new_password: string): Promise<void> {
  carry((await answer(api.PUT('/session/password', { body: { old_password, new_password } }))).token);
}

export const makeKey = (label: string, user: string | null): Promise<MadeKey> =>
  answer(api.POST('/keys', { body: { label, user } }));

export const revokeKey = (id: string) => answer(api.DELETE('/keys/{id}', { params: { path: { id } } }));
