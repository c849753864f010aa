import { describe, expect, it } from 'vitest';

import { entryOf, outdated } from './upgrade';

describe('an upgraded server', () => {
  it('is known by the script its page begins with', () => {
    expect(entryOf('<script type="module" crossorigin src="/app/assets/index-ab.js"></script>')).toBe('/app/assets/index-ab.js');
    expect(entryOf('<p>a proxy says hello</p>')).toBeNull();
  });
  it('has the page loaded anew, once for each version', () => {
    expect(outdated('/app/assets/old.js', '/app/assets/new.js', null)).toBe(true);
    expect(outdated('/app/assets/old.js', '/app/assets/new.js', '/app/assets/new.js')).toBe(false);
    expect(outdated('/app/assets/old.js', '/app/assets/newer.js', '/app/assets/new.js')).toBe(true);
  });
  it('is not guessed where nothing is known, or the page is the same', () => {
    expect(outdated('/app/assets/old.js', '/app/assets/old.js', null)).toBe(false);
    expect(outdated('/app/assets/old.js', null, null)).toBe(false);
    expect(outdated(null, '/app/assets/new.js', null)).toBe(false);
  });
});
