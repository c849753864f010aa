/** The script that `html` begins with; null where there is none. */
export function entryOf(html: string): string | null {
  return /<script\b[^>]*\bsrc="([^"]+)"/.exec(html)?.[1] ?? null;
}

/** Whether to load the page anew: the server hands out another one than runs here, and that was not tried before. */
export function outdated(running: string | null, served: string | null, tried: string | null): boolean {
  return running !== null && served !== null && served !== running && served !== tried;
}

const TRIED = 'tunesmith.reloaded';

/** Load the page anew where the server has another one by now, once for each; whether that is done.
 * An upgraded server has no file any more of the page that still runs here. */
export async function reloadIfOutdated(): Promise<boolean> {
  try {
    const answer = await fetch(import.meta.env.BASE_URL, { cache: 'no-store', headers: { Accept: 'text/html' } });
    const served = answer.ok ? entryOf(await answer.text()) : null;
    const running = document.querySelector('script[type=module][src]')?.getAttribute('src') ?? null;
    if (!outdated(running, served, sessionStorage.getItem(TRIED))) return false;
    sessionStorage.setItem(TRIED, served!);
  } catch {
    return false; // nobody answers, or nothing can be kept: no reload that could be repeated for ever
  }
  location.reload();
  return true;
}
