import '@mantine/core/styles.css';
import './style.css';

import { Anchor, createTheme, MantineProvider } from '@mantine/core';
import { QueryClientProvider } from '@tanstack/react-query';
import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';

import { queries } from './api/queries';
import { Speaking } from './i18n/language';
import { Boundary } from './parts/boundary';
import { App } from './shell/app';

const theme = createTheme({
  primaryColor: 'cyan',
  primaryShade: 9, // white on it is read in both themes (WCAG AA)
  defaultRadius: 'md',
  cursorType: 'pointer',
  respectReducedMotion: true,
  components: {
    Anchor: Anchor.extend({ defaultProps: { inherit: true } }), // as large as what stands round it
    // the list itself scrolls (style.css): a box round its choices could not be reached by the keyboard
    Select: { defaultProps: { withScrollArea: false } },
    Autocomplete: { defaultProps: { withScrollArea: false } },
  },
  fontFamily: 'system-ui, -apple-system, "Segoe UI", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif',
});

// the style element that the theme makes carries what the content security policy asks for
const nonce = document.querySelector('meta[name="csp-nonce"]')?.getAttribute('content') ?? '';

createRoot(document.getElementById('root')!).render(
  <StrictMode>
    <MantineProvider theme={theme} defaultColorScheme="auto" getStyleNonce={() => nonce}>
      <QueryClientProvider client={queries}>
        <Speaking>
          <Boundary resets=""><App /></Boundary>
        </Speaking>
      </QueryClientProvider>
    </MantineProvider>
  </StrictMode>,
);
