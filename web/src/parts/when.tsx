import { useEffect, useState } from 'react';

import { useLanguage } from '../i18n/language';
import { ago, moment } from './durations';

/** A time of the server as "3 minutes ago", with the exact one as its title; it grows older by itself. */
export function When({ at }: { at: string | null | undefined }) {
  const { language } = useLanguage();
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 15_000);
    return () => clearInterval(timer);
  }, []);
  if (!at) return <span>–</span>;
  const then = moment(at);
  const exact = new Date(then).toLocaleString(language === 'zh' ? 'zh-CN' : 'en');
  return <time dateTime={new Date(then).toISOString()} title={exact} className="numbers">{ago(Math.min(then, now), now, language)}</time>;
}
