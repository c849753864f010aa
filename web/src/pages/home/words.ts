import { words } from '../../i18n/language';

const en = {
  title: 'Home',
};

const zh: Record<keyof typeof en, string> = {
  title: '首页',
};

export const useSay = words(en, zh);
