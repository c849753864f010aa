import { type ComponentType, lazy, type LazyExoticComponent } from 'react';

import { reloadIfOutdated } from './upgrade';

/** A part of the page did not come. `forget` has it asked for again where it is shown next. */
export class Unfetched extends Error {
  constructor(
    cause: unknown,
    readonly forget: () => void,
  ) {
    super(cause instanceof Error ? cause.message : String(cause), { cause });
  }
}

const WAITS_MS = [300, 1_200]; // for a server that is being started again

/** What `load` gives, asked for again after each of `waits` where it fails.
 * @throws what it threw last.
 */
export async function patiently<T>(load: () => Promise<T>, waits: readonly number[] = WAITS_MS): Promise<T> {
  for (const wait of waits) {
    try {
      return await load();
    } catch {
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
  return load();
}

/** A component that is fetched when it is first shown. Where it does not come, what surrounds it gets `Unfetched`;
 * a page of an upgraded server is loaded anew instead. */
export function fetched<Given extends object>(
  load: () => Promise<{ default: ComponentType<Given> }>,
): ComponentType<Given> {
  let shown: LazyExoticComponent<ComponentType<Given>> | null = null;
  const forget = () => {
    shown = null;
  };
  const loaded = async () => {
    try {
      return await patiently(load);
    } catch (error) {
      if (await reloadIfOutdated()) return await new Promise<never>(() => undefined); // the reload ends it
      throw new Unfetched(error, forget);
    }
  };
  return function Fetched(given: Given) {
    shown ??= lazy(loaded);
    const Shown = shown as unknown as ComponentType<Given>;
    return <Shown {...given} />;
  };
}
