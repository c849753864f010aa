import { words } from '../../i18n/language';

const en = {
  title: 'Providers',
};

const zh: Record<keyof typeof en, string> = {
  title: '服务商',
};

export const useSay = words(en, zh);
