import { createContext, type ReactNode, useCallback, useContext, useEffect, useMemo, useState } from 'react';

export type Language = 'zh' | 'en';
export type Values = Record<string, string | number>;

interface Spoken {
  language: Language;
  speak: (language: Language) => void;
}

const KEPT = 'tunesmith.language';
const Context = createContext<Spoken | null>(null);

/** The language in `text`, as a browser names languages; Chinese in all its kinds is one. */
export function languageOf(text: string | null | undefined): Language {
  return text?.toLowerCase().startsWith('zh') ? 'zh' : 'en';
}

/** `text` with `{name}` replaced by the value of that name. */
export function filled(text: string, values: Values = {}): string {
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}

const tell = (language: Language): void => {
  document.documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
};
const first = (): Language => languageOf(localStorage.getItem(KEPT) ?? navigator.language);
if (typeof document !== 'undefined') tell(first()); // what is asked of the server before anything is drawn says it too

/** Everything inside is said in the reader's language: the one they chose, else the browser's. */
export function Speaking({ children }: { children: ReactNode }) {
  const [language, speak] = useState<Language>(first);
  useEffect(() => {
    tell(language);
    localStorage.setItem(KEPT, language);
  }, [language]);
  const spoken = useMemo(() => ({ language, speak }), [language]);
  return <Context.Provider value={spoken}>{children}</Context.Provider>;
}

/** The reader's language, and how to change it. */
export function useLanguage(): Spoken {
  const spoken = useContext(Context);
  if (!spoken) throw new Error('no <Speaking> around this');
  return spoken;
}

/** A hook that says the texts of `en` and `zh`, which have the same keys, in the reader's language:
 * `const useSay = words(en, zh)`, then `say('greeting', { name })`. */
export function words<K extends string>(en: Record<K, string>, zh: Record<K, string>) {
  return function useSay(): (key: K, values?: Values) => string {
    const { language } = useLanguage();
    return useCallback((key, values) => filled((language === 'zh' ? zh : en)[key], values), [language]);
  };
}
